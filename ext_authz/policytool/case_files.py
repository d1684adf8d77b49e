"""Reads files of policy tests, with the place of everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from pydantic import ValidationError

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import Fault, Position, Step, did_you_mean, fault_at, shown
from ext_authz.policy.source import Source, examine_policy
from ext_authz.policy.validation import faults_of
from ext_authz.policytool.cases import NOBODY, CaseDocument, CasesDocument

_SUFFIXES = (".yaml", ".yml")


class CaseFile(Struct, frozen=True):
    """One file as it was read."""

    path: Path
    document: CasesDocument
    source: Source

    @property
    def policy(self) -> Path | None:
        """The policy that the file names."""
        return None if self.document.policy is None else self.path.parent / self.document.policy

    def place(self, index: int) -> Position:
        """Where a test stands."""
        return self.source.position(("tests", index))


class CaseFiles(Struct, frozen=True):
    """All that was asked for; with faults, no test is run."""

    files: tuple[CaseFile, ...]
    faults: tuple[Fault, ...]


def read_cases(paths: Iterable[Path]) -> CaseFiles:
    """Read files, and of directories all that is YAML in them.

    Raises:
        ConfigError: there is nothing to read.
    """
    read = [_read(file) for path in paths for file in _files(path)]
    faults = [fault for found in read if not isinstance(found, CaseFile) for fault in found]
    return CaseFiles(tuple(found for found in read if isinstance(found, CaseFile)), tuple(faults))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.name[0] != ".")
    if not found:
        raise ConfigError(f"{path}: there are no *.yaml files with tests in this directory")
    return found


def _read(path: Path) -> CaseFile | Sequence[Fault]:
    examined = examine_policy(path, {})
    if examined.source is None or examined.faults:
        return examined.faults
    source = examined.source
    try:
        document = CasesDocument.model_validate(source.data)
    except ValidationError as wrong:
        return faults_of(wrong, source, CasesDocument)
    return tuple(_unknown_callers(document, source)) or CaseFile(path, document, source)


def _unknown_callers(document: CasesDocument, source: Source) -> Iterator[Fault]:
    """The tests whose identity is a name that the file does not explain."""
    for index, case in enumerate(document.tests):
        for path, name in _named(index, case):
            if name != NOBODY and name not in document.identities:
                known = [NOBODY, *document.identities]
                hint = did_you_mean(name, known) or f"known here: {', '.join(known)}"
                what = f"there is no identity {shown(name)}"
                yield fault_at(source.position(path), path, "unknown_identity", what, hint)


def _named(index: int, case: CaseDocument) -> Iterator[tuple[tuple[Step, ...], str]]:
    if isinstance(case.identity, str):
        yield ("tests", index, "identity"), case.identity
    for number, step in enumerate(case.then):
        if isinstance(step.identity, str):
            yield ("tests", index, "then", number, "identity"), step.identity
