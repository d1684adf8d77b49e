"""The faults that show only when the parts of a policy are put together: undefined names and wrong expressions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from ext_authz.policy.cel.errors import ConditionError
from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.faults import Fault, Position, Step, did_you_mean, fault_at, shown
from ext_authz.policy.source import Source

_E = TypeVar("_E", Condition, Amount)


class Diagnostics:
    """Collects them, each with its position."""

    def __init__(self, source: Source, kept_claims: Collection[str]) -> None:
        self.faults: list[Fault] = []
        self._source = source
        self._kept_claims = kept_claims

    def report(self, path: tuple[Step, ...], code: str, what: str, hint: str = "") -> None:
        """A fault of the value at this path."""
        self.faults.append(fault_at(self.position(path), path, code, self._source.masked(what, path), hint))

    def report_key(self, path: tuple[Step, ...], code: str, what: str, hint: str = "") -> None:
        """A fault of the key at the end of this path."""
        self.faults.append(fault_at(self._source.key_position(path), path, code, what, hint))

    def report_undefined(self, path: tuple[Step, ...], kind: str, name: str, defined: Collection[str]) -> None:
        """The value at this path names something that is not defined."""
        hint = "" if path in self._source.substituted else did_you_mean(name, defined)
        self.report(path, f"unknown_{kind}", f"{kind} {shown(name)} is not defined", hint or _listed(kind, defined))

    def report_undefined_key(self, path: tuple[Step, ...], kind: str, defined: Collection[str]) -> None:
        """The key at the end of this path names something that is not defined."""
        name = str(path[-1])
        hint = did_you_mean(name, defined) or _listed(kind, defined)
        self.report_key(path, f"unknown_{kind}", f"{kind} {shown(name)} is not defined", hint)

    def position(self, path: tuple[Step, ...]) -> Position:
        return self._source.position(path)

    def ensure_kept(self, path: tuple[Step, ...], claim: str) -> None:
        """A claim that no issuer keeps is no caller's."""
        if claim not in self._kept_claims:
            self.report_undefined(path, "kept_claim", claim, self._kept_claims)

    def expression(self, compiled: Callable[[str], _E], text: str | None, path: tuple[Step, ...]) -> _E | None:
        """The compiled expression; None where there is none, or where it is wrong, which is reported."""
        if text is None:
            return None
        try:
            expression = compiled(text)
        except ConditionError as wrong:
            self.report(path, "wrong_condition", str(wrong))
            return None
        for claim in sorted(expression.claims):
            self.ensure_kept(path, claim)
        return expression


def _listed(kind: str, defined: Collection[str]) -> str:
    return f"defined: {', '.join(sorted(defined)[:12])}" if defined else f"no {kind} is defined"
