"""Compiles what is written in CEL, and sees to it that the claims a policy looks at are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from ext_authz.policy.cel.errors import ConditionError
from ext_authz.policy.faults import Step
from ext_authz.policy.telling import Telling


class _Expression(Protocol):
    @property
    def claims(self) -> frozenset[str]: ...


_E = TypeVar("_E", bound=_Expression)


class Claimed:
    """The claims that some issuer keeps: what no issuer keeps, nobody has."""

    def __init__(self, kept: Collection[str], telling: Telling) -> None:
        self._kept = kept
        self._telling = telling

    def ensure_kept(self, claim: str, path: tuple[Step, ...]) -> None:
        if claim not in self._kept:
            self._telling.tell_unknown(path, "kept_claim", claim, self._kept)


def compiled(
    compile_text: Callable[[str], _E], text: str | None, path: tuple[Step, ...], claimed: Claimed, telling: Telling
) -> _E | None:
    """The expression, or None where there is none or where it is wrong, which is told."""
    if text is None:
        return None
    try:
        expression = compile_text(text)
    except ConditionError as wrong:
        telling.tell(path, "wrong_condition", str(wrong))
        return None
    for claim in sorted(expression.claims):
        claimed.ensure_kept(claim, path)
    return expression
