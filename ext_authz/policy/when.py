"""`when:` - a condition in CEL (https://cel.dev) over `identity`, `request`, `model` and `time`.

Compiled once, when the policy is loaded. What cannot be decided is denied, with the reason for `explain`. Why this
library, and what bounds a condition: docs/adr/0009-conditions-in-cel.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ext_authz.policy.when_bounds import bounded
from ext_authz.policy.when_errors import ConditionError, compile_error, evaluation_error
from ext_authz.policy.when_variables import ENVIRONMENT, Keys, NoAnswer, Variables, binding

__all__ = ["Condition", "ConditionError", "Variables", "Verdict"]

MAX_CONDITION = 1000
"""Characters."""


# Compared with true, a result is a boolean or an error even where the checker was wrong: version 0.1.3 of the library
# drops a reference to None each time that it returns one.
_STRICT = "({}\n) == true"


class Verdict(Struct, frozen=True):
    """What a condition says of one request."""

    value: bool
    error: str = ""
    """Why there was no answer; `value` is False then. Names types and variables, never values."""


_HOLDS = Verdict(value=True)
_DOES_NOT_HOLD = Verdict(value=False)


class Condition:
    """One compiled condition. Immutable; `compile` is the way to get one."""

    __slots__ = ("_bindings", "_expression", "claims", "text")

    def __init__(self, text: str, expression: Any, looks_at: Mapping[str, Keys]) -> None:  # noqa: ANN401 - a type of the library, which has none
        self.text = text
        self.claims = looks_at.get("identity.claims") or frozenset()
        """The claims that it looks at by name."""
        self._expression = expression
        self._bindings = {name: binding(name, keys) for name, keys in looks_at.items()}

    @classmethod
    def compile(cls, text: str) -> Condition:
        """Parse, check the types, check the bounds.

        Raises:
            ConditionError: says what is wrong, and where.
        """
        ensure_readable(text)
        plain = checked(text, "{}")
        _ensure_boolean(plain)
        looks_at = bounded(plain.serialize())
        return cls(text, checked(text, _STRICT), looks_at)

    @property
    def names(self) -> frozenset[str]:
        """The variables that it looks at, for example `identity.claims`."""
        return frozenset(self._bindings)

    def holds(self, variables: Variables) -> bool:
        """Whether the request may go on. No answer is a no."""
        return self.evaluate(variables).value

    def evaluate(self, variables: Variables) -> Verdict:
        """The same with the reason, where there was no answer."""
        try:
            data = {name: bind(variables) for name, bind in self._bindings.items()}
        except NoAnswer as why:
            return Verdict(value=False, error=str(why))
        return self._answer(data)

    def constant(self) -> bool | None:
        """What it says of every request, if it says the same of all; None where it depends on the request.

        CEL's `&&` and `||` take an error for unknown, so an evaluation without variables that still has an answer has
        it whatever they are. An answer that needs arithmetic to see (`time.hour >= 0`) is not seen.
        """
        verdict = self._answer({})
        return verdict.value if not verdict.error or not self._bindings else None

    def _answer(self, data: dict[str, Any]) -> Verdict:
        try:
            answer = self._expression.eval(data=data).value()
        except (RuntimeError, ValueError) as wrong:
            answer = str(wrong)
        if answer is True:
            return _HOLDS
        return Verdict(value=False, error=evaluation_error(answer)) if answer is not False else _DOES_NOT_HOLD


def ensure_readable(text: str) -> None:
    """Bounded in length, and nothing in it that its readers cannot see."""
    if len(text) > MAX_CONDITION:
        raise ConditionError(f"a condition is {MAX_CONDITION} characters long at most", MAX_CONDITION)
    for offset, character in enumerate(text):
        if not character.isprintable() and character not in "\t\r\n":
            raise ConditionError("a condition is written in characters that can be seen", offset)


def checked(text: str, form: str) -> Any:  # noqa: ANN401 - a type of the library, which has none
    """What CEL makes of the text inside the form, types checked."""
    try:
        return ENVIRONMENT.compile(form.format(text))
    except RuntimeError as wrong:
        raise compile_error(text, str(wrong)) from None


def _ensure_boolean(checked: Any) -> None:  # noqa: ANN401 - a type of the library, which has none
    kind = checked.return_type().name()
    if kind == "DYN":
        raise ConditionError("the result can be of any type: compare it, for example with == true", 0)
    if kind != "BOOL":
        raise ConditionError(f"the result must be true or false, and is {kind.lower()}", 0)
