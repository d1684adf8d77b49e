"""A policy comes out of its compiled form as it went in, and nothing else comes out."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from ext_authz.errors import ConfigError
from ext_authz.reload.compiled import read, write
from tests.unit.reload.policies import Policies, text


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    return Policies(tmp_path)


def test_what_it_says_stays(policies: Policies, tmp_path: Path) -> None:
    before = policies.load(text())
    write(before, tmp_path / "compiled")
    after = read(tmp_path / "compiled")
    assert after.hash == before.hash
    assert [route.name for route in after.routes] == ["infer", "ready"]
    assert after.routes[0].permission == before.routes[0].permission
    assert [issuer.issuer for issuer in after.issuers] == [issuer.issuer for issuer in before.issuers]
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_shared_stays_shared(policies: Policies, tmp_path: Path) -> None:
    """Limits are told apart by identity: two routes that count together must go on doing so."""
    write(policies.load(text()), tmp_path / "compiled")
    first, second = read(tmp_path / "compiled").routes
    assert first.limits[0] is second.limits[0]


def test_conditions_are_compiled_again(policies: Policies, tmp_path: Path) -> None:
    before = policies.load(text())
    write(before, tmp_path / "compiled")
    condition = read(tmp_path / "compiled").routes[0].when
    assert condition is not None
    assert before.routes[0].when is not None
    assert condition.text == "request.method == 'POST'"
    assert condition.names == before.routes[0].when.names


def test_half_a_file_is_no_policy(policies: Policies, tmp_path: Path) -> None:
    file = tmp_path / "compiled"
    write(policies.load(text()), file)
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="the compiled policy cannot be read"):
            read(file)


class Evil:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", [Evil(), {"a": 1}, len, Path("x")])
def test_nothing_else_comes_out(tmp_path: Path, content: object) -> None:
    file = tmp_path / "compiled"
    file.write_bytes(pickle.dumps(0) + pickle.dumps(content))
    with pytest.raises(ConfigError, match="the compiled policy cannot be read"):
        read(file)
    assert not Path("pwned").exists()
