"""Conditions (`when:`) and amounts (`cost:`) in CEL over `identity`, `request`, `model` and `time`.

Compiled once, when the policy is loaded. A condition that cannot be evaluated denies, with the reason for `explain`.
Why this library, and what bounds an expression: docs/adr/0009-conditions-in-cel.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ext_authz.policy.cel.bounds import bounded
from ext_authz.policy.cel.errors import ConditionError, compile_error, evaluation_error
from ext_authz.policy.cel.variables import ENVIRONMENT, EvaluationError, Keys, Variables, binding

MAX_EXPRESSION = 1000
"""Characters."""

# Compared with true, a result is a boolean or an error even where the checker was wrong: version 0.1.3 of the library
# drops a reference to None each time that it returns one.
_BOOLEAN = "({}\n) == true"
# Converted, a result is a number or an error even where the checker could not know its type.
_NUMBER = "int({}\n)"


class Verdict(Struct, frozen=True):
    """The result of a condition for one request."""

    value: bool
    error: str = ""
    """Why it could not be evaluated; `value` is False then. Names types and variables, never values."""


_HOLDS = Verdict(value=True)
_DOES_NOT_HOLD = Verdict(value=False)


class _Expression:
    """One compiled expression. Immutable; `compile` of a subclass is the way to get one."""

    __slots__ = ("_bindings", "_expression", "reads", "text")

    def __init__(self, text: str, expression: Any, reads: Mapping[str, Keys]) -> None:  # noqa: ANN401 - a type of the library, which has none
        self.text = text
        self.reads = reads
        """The variables that it reads, for example `identity.claims`; of a map the members, or None for all of them."""
        self._expression = expression
        self._bindings = {name: binding(name, keys) for name, keys in reads.items()}

    @property
    def claims(self) -> frozenset[str]:
        """The claims that it reads by name."""
        return self.reads.get("identity.claims") or frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The variables that it reads."""
        return frozenset(self.reads)


class Condition(_Expression):
    """True or false."""

    __slots__ = ()

    @classmethod
    def compile(cls, text: str) -> Condition:
        """Parse, check the types, check the bounds.

        Raises:
            ConditionError: says what is wrong, and where.
        """
        plain = _checked(text)
        kind = plain.return_type().name()
        if kind == "DYN":
            raise ConditionError("the result can be of any type", 0, "compare it, for example with == true")
        if kind != "BOOL":
            hint = "compare it with a value" if "<" not in kind else "write for example 'x' in identity.roles"
            raise ConditionError(f"the result must be true or false, and is {kind.lower()}", 0, hint)
        return cls(text, _compiled(text, _BOOLEAN), bounded(plain.serialize()))

    def evaluate(self, variables: Variables) -> Verdict:
        """The verdict; an expression that cannot be evaluated is false, with the reason."""
        try:
            data = {name: bind(variables) for name, bind in self._bindings.items()}
        except EvaluationError as why:
            return Verdict(value=False, error=str(why))
        return self._verdict(data)

    def constant(self) -> bool | None:
        """Its value where that is the same for every request; None where it depends on the request.

        CEL's `&&` and `||` take an error for unknown, so a result without variables holds whatever they are. A result
        that needs arithmetic to see (`time.hour >= 0`) is not seen.
        """
        verdict = self._verdict({})
        return verdict.value if not verdict.error or not self._bindings else None

    def _verdict(self, data: dict[str, Any]) -> Verdict:
        try:
            answer = self._expression.eval(data=data).value()
        except (RuntimeError, ValueError) as wrong:
            answer = str(wrong)
        if answer is True:
            return _HOLDS
        return Verdict(value=False, error=evaluation_error(answer)) if answer is not False else _DOES_NOT_HOLD


class Amount(_Expression):
    """A whole number."""

    __slots__ = ()

    @classmethod
    def compile(cls, text: str) -> Amount:
        """Parse, check the types, check the bounds.

        Raises:
            ConditionError: says what is wrong, and where.
        """
        plain = _checked(text)
        kind = plain.return_type().name()
        if kind not in ("INT", "UINT", "DYN"):
            raise ConditionError(f"the result must be a whole number, and is {kind.lower()}", 0)
        return cls(text, _compiled(text, _NUMBER), bounded(plain.serialize()))

    def of(self, variables: Variables) -> int | None:
        """The number, or None where the expression cannot be evaluated."""
        try:
            data = {name: bind(variables) for name, bind in self._bindings.items()}
            answer = self._expression.eval(data=data).value()
        except (EvaluationError, RuntimeError, ValueError):
            return None
        return answer if isinstance(answer, int) and not isinstance(answer, bool) else None


def _checked(text: str) -> Any:  # noqa: ANN401 - a type of the library, which has none
    """The text compiled as it is, with its types checked; bounded in length, and without invisible characters."""
    if len(text) > MAX_EXPRESSION:
        raise ConditionError(f"an expression has at most {MAX_EXPRESSION} characters", MAX_EXPRESSION)
    for offset, character in enumerate(text):
        if not character.isprintable() and character not in "\t\r\n":
            raise ConditionError("an expression may not contain invisible characters", offset)
    return _compiled(text, "{}")


def _compiled(text: str, form: str) -> Any:  # noqa: ANN401 - a type of the library, which has none
    try:
        return ENVIRONMENT.compile(form.format(text))
    except RuntimeError as wrong:
        raise compile_error(text, str(wrong)) from None
