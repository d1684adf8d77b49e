"""Policies that newcomers write, and what `tollgate policy check` prints of each: position, sentence, advice.

`wrong_policies.txt` has the table. A policy without a `version` gets a version, an issuer and, if it has none, a route
after its own lines.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ext_authz.policy.faults import counted, excerpt, rendered
from ext_authz.policy.load import examine
from ext_authz.policytool.warnings import warnings_of

TABLE = Path(__file__).with_name("wrong_policies.txt")
ISSUER = 'version: 1\nissuers: [{name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway]}]\n'
ROUTE = "routes: [{name: live, path: /v2/health/live, methods: [GET], public: true}]\n"
ROWS = [row.partition("\n") for row in TABLE.read_text().split("=== ")[1:]]


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, _, row in ROWS], ids=[name for name, *_ in ROWS])
def test_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: str) -> None:
    monkeypatch.chdir(tmp_path)
    policy, _, printed = row.partition("---\n")
    Path("policy.yaml").write_text(whole(policy))
    loaded = examine(Path("policy.yaml"), {})
    found = (*loaded.faults, *warnings_of(loaded))
    lines = [rendered(fault).removeprefix("policy.yaml:") for fault in found]
    assert "\n".join([*lines, counted(found)]) == printed.rstrip("\n"), name
    for fault in found:
        line, caret = excerpt(fault) or ("", "")
        assert caret.endswith("^"), fault
        assert "\t" in fault.text or fault.text[fault.column - 1 :].startswith(line[len(caret) - 1 :][:20])


def whole(policy: str) -> str:
    if re.search("^version:", policy, re.MULTILINE):
        return policy
    return policy + ISSUER + ("" if re.search("^routes:", policy, re.MULTILINE) else ROUTE)
