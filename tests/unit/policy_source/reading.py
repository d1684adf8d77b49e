"""What the tests of this folder read with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ext_authz.policy.bounds import Bounds
from ext_authz.policy.faults import Fault, PolicyFaults
from ext_authz.policy.source import Source, read_policy

BOUNDS = Bounds()


def written(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return directory / next(iter(files))


def read(directory: Path, text: str | bytes, environ: dict[str, str] | None = None, bounds: Bounds = BOUNDS) -> Source:
    return read_policy(written(directory, {"policy.yaml": text}), environ or {}, bounds)


def faults(path: Path, environ: dict[str, str] | None = None, bounds: Bounds = BOUNDS) -> tuple[Fault, ...]:
    with pytest.raises(PolicyFaults) as told:
        read_policy(path, environ or {}, bounds)
    return told.value.faults


def fault(directory: Path, text: str | bytes, environ: dict[str, str] | None = None, bounds: Bounds = BOUNDS) -> Fault:
    """The only fault of one file."""
    (one,) = faults(written(directory, {"policy.yaml": text}), environ, bounds)
    return one
