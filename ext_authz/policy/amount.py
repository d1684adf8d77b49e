"""`cost:` - a whole number in CEL, over the same variables and within the same bounds as a condition (`when.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ext_authz.policy.when import checked, ensure_readable
from ext_authz.policy.when_bounds import bounded
from ext_authz.policy.when_errors import ConditionError
from ext_authz.policy.when_variables import Keys, NoAnswer, Variables, binding

# Converted, a result is a number or an error even where the checker could not know its type.
_STRICT = "int({}\n)"


class Amount:
    """One compiled expression. Immutable; `compile` is the way to get one."""

    __slots__ = ("_bindings", "_expression", "claims", "text")

    def __init__(self, text: str, expression: Any, looks_at: Mapping[str, Keys]) -> None:  # noqa: ANN401 - a type of the library, which has none
        self.text = text
        self.claims = looks_at.get("identity.claims") or frozenset()
        """The claims that it looks at by name."""
        self._expression = expression
        self._bindings = {name: binding(name, keys) for name, keys in looks_at.items()}

    @classmethod
    def compile(cls, text: str) -> Amount:
        """Parse, check the types, check the bounds.

        Raises:
            ConditionError: says what is wrong, and where.
        """
        ensure_readable(text)
        expression = checked(text, "{}")
        kind = expression.return_type().name()
        if kind not in ("INT", "UINT", "DYN"):
            raise ConditionError(f"the result must be a whole number, and is {kind.lower()}", 0)
        return cls(text, checked(text, _STRICT), bounded(expression.serialize()))

    @property
    def names(self) -> frozenset[str]:
        """The variables that it looks at."""
        return frozenset(self._bindings)

    def of(self, variables: Variables) -> int | None:
        """The number, or None where the request has no answer."""
        try:
            data = {name: bind(variables) for name, bind in self._bindings.items()}
            answer = self._expression.eval(data=data).value()
        except (NoAnswer, RuntimeError, ValueError):
            return None
        return answer if isinstance(answer, int) and not isinstance(answer, bool) else None
