"""The faults that show only when the parts of a policy are put together: undefined names and wrong expressions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from ext_authz.policy.cel.errors import ConditionError
from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.faults import Fault, Position, Step, did_you_mean, fault_at, shown
from ext_authz.policy.source import Source

_MAX_NAMES = 12
_E = TypeVar("_E", Condition, Amount)


class Diagnostics:
    """Collects them, each with its position."""

    def __init__(self, source: Source) -> None:
        self.faults: list[Fault] = []
        self.source = source
        self._kept_claims = source.kept_claims()

    def report(self, path: tuple[Step, ...], code: str, what: str, hint: str = "") -> None:
        """A fault of the value at this path."""
        self._add(self.position(path), path, code, what, hint)

    def report_key(self, path: tuple[Step, ...], code: str, what: str, hint: str = "") -> None:
        """A fault of the key at the end of this path."""
        self._add(self.source.key_position(path), path, code, what, hint)

    def report_undefined(self, path: tuple[Step, ...], kind: str, name: str, *, is_key: bool = False) -> None:
        """The value at this path, or the key at its end, names something that the policy does not define.

        Nothing is reported where a part that is wrong in itself, or was not read, may define it.
        """
        section = f"{kind}s"
        others = self.source.names(section)
        if name in others or not self.source.complete:
            return
        hint = "" if path in self.source.substituted else did_you_mean(name, others)
        report = self.report_key if is_key else self.report
        report(path, f"unknown_{kind}", f"the {kind} {shown(name)} is not defined", hint or _listed(section, others))

    def position(self, path: tuple[Step, ...]) -> Position:
        return self.source.position(path)

    def ensure_kept(self, path: tuple[Step, ...], claim: str, position: Position | None = None) -> None:
        """A claim that no issuer keeps is no caller's."""
        if claim in self._kept_claims or not self.source.complete:
            return
        hint = "" if path in self.source.substituted else did_you_mean(claim, self._kept_claims)
        what = f"no issuer keeps the claim {shown(claim)}"
        hint = hint or f"add it to claims.keep of the issuer whose tokens have it{_kept(self._kept_claims)}"
        self._add(position or self.position(path), path, "claim_not_kept", what, hint)

    def expression(self, compiled: Callable[[str], _E], text: str | None, path: tuple[Step, ...]) -> _E | None:
        """The compiled expression; None where there is none, or where it is wrong, which is reported."""
        if text is None:
            return None
        try:
            expression = compiled(text)
        except ConditionError as wrong:
            position = self.source.position_inside(path, wrong.offset)
            what = wrong.what if position else f"{wrong.what} (at character {wrong.offset + 1})"
            self._add(position or self.position(path), path, "wrong_condition", what, wrong.hint)
            return None
        for claim in sorted(expression.claims):
            self.ensure_kept(path, claim, self.source.position_inside(path, max(0, text.find(claim))))
        return expression

    def _add(self, position: Position, path: tuple[Step, ...], code: str, what: str, hint: str) -> None:
        what = self.source.masked(what, path)
        self.faults.append(fault_at(position, self.source.written(path), code, what, hint))


def _listed(section: str, defined: Collection[str]) -> str:
    if not defined:
        return f"define it under {section}"
    return f"{section}: {', '.join(sorted(defined)[:_MAX_NAMES])}{', ...' if len(defined) > _MAX_NAMES else ''}"


def _kept(claims: Collection[str]) -> str:
    return f" (kept: {', '.join(sorted(claims)[:_MAX_NAMES])})" if claims else ""
