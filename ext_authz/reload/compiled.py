"""A compiled policy in a file: how the one process that reads `policy.yaml` hands it to the workers.

A policy is many small objects that share some (limits, above all) and are told apart by identity, so the form is
pickle's, cut into slices that share one memory: no step of `read` is longer than the largest rule. Only the
supervisor's child writes such files, into a directory that nobody else may enter; still, nothing but a policy's own
classes comes out of one. A condition travels as its text and is compiled again.
"""

from __future__ import annotations

import importlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy

_PLAIN = {("builtins", "frozenset"): frozenset, ("builtins", "set"): set, ("re", "_compile"): re.compile}
_OURS = ("ext_authz.policy.",)


def write(policy: Policy, file: Path) -> None:
    """Whole or not at all: the name appears when the last byte is there."""
    partial = file.with_suffix(".partial")
    slices = list(_slices(policy))
    with partial.open("wb") as stream:
        pickler = _Pickler(stream, pickle.HIGHEST_PROTOCOL)
        for each in (len(slices), *slices, policy):
            pickler.dump(each)
    partial.replace(file)


def read(file: Path) -> Policy:
    """Blocking; in a thread it lets others run between two slices.

    Raises:
        ConfigError: it is no compiled policy of this version.
    """
    try:
        with file.open("rb") as stream:
            unpickler = _Unpickler(stream)
            for _ in range(unpickler.load()):
                unpickler.load()
            policy = unpickler.load()
    except Exception as wrong:  # noqa: BLE001 - pickle raises whatever it likes, and a bad file is one thing
        raise ConfigError(f"the compiled policy cannot be read: {type(wrong).__name__}: {wrong}") from None
    if not isinstance(policy, Policy):
        raise ConfigError("the compiled policy cannot be read: it holds something else")
    return policy


def _slices(whole: object) -> Iterator[object]:
    """The members of every collection in the policy: what follows only refers to them."""
    values = structs.asdict(whole) if isinstance(whole, Struct) else vars(whole)
    for value in values.values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            yield from value
        elif hasattr(value, "__dict__"):
            yield from _slices(value)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:  # noqa: ANN401 - pickle's signature
        if isinstance(value, type) or not hasattr(value, "text"):
            return NotImplemented
        return compiled, (type(value), value.text)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if (module, name) == (__name__, compiled.__name__):
            return compiled
        found = getattr(importlib.import_module(module), name, None) if module.startswith(_OURS) else None
        if isinstance(found, type):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a policy")


def compiled(kind: Any, text: str) -> object:  # noqa: ANN401 - any class with `compile(text)`
    """A condition or an amount, from its text."""
    return kind.compile(text)
