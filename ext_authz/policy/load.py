"""Loads files into a valid `Policy`, or reports everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from pydantic import ValidationError

from ext_authz.policy.compile import compiled_policy
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.faults import Fault, PolicyFaults, in_order
from ext_authz.policy.model import Policy
from ext_authz.policy.source import Source, read_source
from ext_authz.policy.validation import faults_of


class Loaded(Struct, frozen=True):
    """What could be made of the files; complete where there are no faults."""

    faults: tuple[Fault, ...]
    source: Source | None = None
    document: PolicyDocument | None = None
    policy: Policy | None = None


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
    """As `load_policy`, for tools that also work with an incomplete policy."""
    source, faults = read_source(path, environ)
    if source is None:
        return Loaded(faults)
    try:
        document = PolicyDocument.model_validate(source.data)
    except ValidationError as wrong:
        return Loaded(in_order((*faults, *faults_of(wrong, source, PolicyDocument))), source)
    policy, found = compiled_policy(document, source)
    faults = in_order((*faults, *found))
    return Loaded(faults, source, document, None if faults else policy)
