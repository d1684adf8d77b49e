"""What the tests of sources read with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ext_authz.policy.faults import Fault
from ext_authz.policy.source import Source, read_source


def written(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return directory / next(iter(files))


def source_of(path: Path, environ: Mapping[str, str] = {}) -> Source:
    """What is read without a fault."""
    source, found = read_source(path, environ)
    assert not found, found
    assert source is not None
    return source


def read(directory: Path, text: str | bytes, environ: Mapping[str, str] = {}) -> Source:
    return source_of(written(directory, {"policy.yaml": text}), environ)


def faults(path: Path, environ: Mapping[str, str] = {}) -> tuple[Fault, ...]:
    """What is wrong; something must be."""
    _, found = read_source(path, environ)
    assert found
    return found


def fault(directory: Path, text: str | bytes, environ: Mapping[str, str] = {}) -> Fault:
    """The only fault of one file."""
    (one,) = faults(written(directory, {"policy.yaml": text}), environ)
    return one
