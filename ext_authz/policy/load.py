"""Loads files into a valid `Policy`, or reports everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct
from pydantic import ValidationError

from ext_authz.policy.compile import compiled_policy
from ext_authz.policy.compile_routes import faults_of_removed
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.issuers import IssuerDocument
from ext_authz.policy.documents.routes import RouteDocument
from ext_authz.policy.faults import MAX_FAULTS, Fault, PolicyFaults
from ext_authz.policy.model import Policy
from ext_authz.policy.source import Source, read_source
from ext_authz.policy.validation import faults_of, unusable


class Loaded(Struct, frozen=True):
    """What could be made of the files; complete where there are no faults."""

    faults: tuple[Fault, ...]
    source: Source | None = None
    """What is left of the files without what is wrong in itself."""
    document: PolicyDocument | None = None
    compiled: Policy | None = None

    @property
    def policy(self) -> Policy | None:
        """The valid policy."""
        return None if self.faults else self.compiled


class _Rest(PolicyDocument):
    """A policy that may lack what a complete one must have."""

    version: Literal[1] = 1
    issuers: tuple[IssuerDocument, ...] = ()
    routes: tuple[RouteDocument, ...] = ()


def load_policy(path: Path, environ: Mapping[str, str]) -> Policy:
    """Read a file or a directory, put `${NAME}` in from `environ`, validate, compile.

    Raises:
        PolicyFaults: a ConfigError with every fault and its position.
    """
    loaded = examine(path, environ)
    if loaded.policy is None:
        raise PolicyFaults(loaded.faults)
    return loaded.policy


def examine(path: Path, environ: Mapping[str, str]) -> Loaded:
    """As `load_policy`, for tools that also work with an incomplete policy: what is valid by itself is compiled."""
    source, faults = read_source(path, environ)
    if source is None:
        return Loaded(faults)
    document, rest, wrong = _parsed(source)
    if document is None:
        return Loaded(source.quoted((*faults, *wrong)), source)
    compiled, found = compiled_policy(document, rest)
    known = {fault.path for fault in wrong}
    found += [fault for fault in faults_of_removed(source, rest) if fault.path not in known]
    return Loaded(source.quoted((*faults, *wrong, *found)), rest, document, compiled)


def _parsed(source: Source) -> tuple[PolicyDocument | None, Source, list[Fault]]:
    """The document, or what can be made of the rest once all that is wrong is removed; and what that was."""
    root = PolicyDocument if source.complete else _Rest
    rest, faults = source, None
    while True:
        try:
            return root.model_validate(rest.data), rest, faults or []
        except ValidationError as wrong:
            faults = faults_of(wrong, source, root) if faults is None else faults
            paths = unusable(wrong, rest, root)
            if () in paths or len(paths) > MAX_FAULTS:
                return None, source, faults
            root, rest = _Rest, rest.without(paths)
