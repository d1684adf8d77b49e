"""Collects what is wrong with a policy beyond the shape of its parts, each fault with its place."""

from __future__ import annotations

from collections.abc import Collection

from ext_authz.policy.faults import Fault, Position, Step, did_you_mean, fault_at, shown
from ext_authz.policy.source import Source


class Telling:
    """The faults that were found so far."""

    def __init__(self, source: Source) -> None:
        self.faults: list[Fault] = []
        self._source = source

    def tell(self, path: tuple[Step, ...], code: str, what: str, hint: str = "") -> None:
        """A fault of the value at this path."""
        self.faults.append(fault_at(self._source.position(path), path, code, self._source.masked(what, path), hint))

    def tell_key(self, path: tuple[Step, ...], code: str, what: str, hint: str = "") -> None:
        """A fault of the key at the end of this path."""
        self.faults.append(fault_at(self._source.key_position(path), path, code, what, hint))

    def tell_unknown(self, path: tuple[Step, ...], kind: str, word: str, known: Collection[str]) -> None:
        """A name that refers to nothing."""
        hint = "" if path in self._source.substituted else did_you_mean(word, known)
        listed = f"defined: {', '.join(sorted(known)[:12])}" if known else f"no {kind} is defined"
        self.tell(path, f"unknown_{kind}", f"{kind} {shown(word)} is not defined", hint or listed)

    def tell_unknown_key(self, path: tuple[Step, ...], kind: str, known: Collection[str]) -> None:
        """A key that refers to nothing."""
        word = str(path[-1])
        what, hint = f"{kind} {shown(word)} is not defined", did_you_mean(word, known)
        self.tell_key(path, f"unknown_{kind}", what, hint or f"defined: {', '.join(sorted(known)[:12])}")

    def place(self, path: tuple[Step, ...]) -> Position:
        return self._source.position(path)
