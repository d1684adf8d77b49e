"""Parameters of a processor: how they are declared, and what a run gets.

A declaration is a part of JSON Schema: a type, a default, bounds, choices. Numbers are those that every reader of JSON
has: finite, and whole ones exact in a double.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    model_validator,
)

from ext_authz.catalogue.texts import Text
from ext_authz.tokens.model import NotDone, Why

LONGEST = 4096
"""Characters of a text that a run gets."""
MOST = 50
"""Parameters of a processor."""
_MOST_CHOICES = 100
_EXACT = 2**53

Value = StrictBool | StrictInt | StrictFloat | Annotated[str, StringConstraints(strict=True, max_length=LONGEST)]
Values = Mapping[str, Value]
Type = Literal["string", "integer", "number", "boolean"]
_TYPES: Mapping[Type, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class Parameter(BaseModel):
    """One of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    type: Type
    description: Text | None = None
    required: bool = False
    """A run has to say it. What is neither required nor has a default may be left out."""
    default: Value | None = None
    minimum: StrictInt | StrictFloat | None = None
    maximum: StrictInt | StrictFloat | None = None
    """Both of numbers, inclusive."""
    max_length: Annotated[StrictInt, Field(ge=1, le=LONGEST)] | None = None
    """Of a text, in characters."""
    choices: Annotated[list[Value], Field(min_length=1, max_length=_MOST_CHOICES)] | None = None
    """The only values that are possible."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for wrong in self._faults():
            raise ValueError(f"{self.name}: {wrong}")
        return self

    def _faults(self) -> Iterator[str]:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and self.type not in ("integer", "number"):
            yield "only numbers have a minimum and a maximum"
        if not all(map(_is_usual, bounds)) or (len(bounds) == 2 and bounds[0] > bounds[1]):
            yield "minimum and maximum are finite numbers, the first not above the second"
        if self.max_length is not None and self.type != "string":
            yield "only a string has a max_length"
        if self.required and self.default is not None:
            yield "what is required has no default"
        values = [*(self.choices or ()), *([] if self.default is None else [self.default])]
        yield from filter(None, (self.complaint(value) for value in values))

    def complaint(self, value: Value) -> str:
        """What is wrong with the value; empty: nothing."""
        if not isinstance(value, _TYPES[self.type]) or isinstance(value, bool) != (self.type == "boolean"):
            return f"is no {self.type}"
        if isinstance(value, str):
            return self._complaint_of_text(value)
        if not _is_usual(value):
            return "is no number of a usual size"
        if self.minimum is not None and value < self.minimum:
            return f"is less than {self.minimum}"
        if self.maximum is not None and value > self.maximum:
            return f"is more than {self.maximum}"
        return self._complaint_of_choice(value)

    def _complaint_of_text(self, value: str) -> str:
        if "\0" in value:
            return "has a NUL"
        if len(value) > (self.max_length or LONGEST):
            return f"is longer than {self.max_length or LONGEST} characters"
        return self._complaint_of_choice(value)

    def _complaint_of_choice(self, value: Value) -> str:
        return "" if self.choices is None or value in self.choices else "is none of the choices"


def values_of(parameters: Sequence[Parameter], given: Values) -> dict[str, Any]:
    """Every parameter of a run: what is given, and defaults.

    Raises:
        NotDone: INVALID; `field` is `parameters` and the name.
    """
    declared = {each.name: each for each in parameters}
    for name in given:
        if name not in declared:
            raise _wrong("", f"there is no such parameter here: there are {', '.join(declared) or 'none'}")
    for name, parameter in declared.items():
        if name in given and (wrong := parameter.complaint(given[name])):
            raise _wrong(name, wrong)
        if parameter.required and name not in given:
            raise _wrong(name, "is required: a run has to say it")
    defaults = {each.name: each.default for each in parameters if each.default is not None}
    return defaults | dict(given)


def _is_usual(value: float) -> bool:
    return math.isfinite(value) and (isinstance(value, float) or abs(value) <= _EXACT)


def _wrong(name: str, detail: str) -> NotDone:
    return NotDone(Why.INVALID, f"{name}: {detail}" if name else detail, f"parameters.{name}".rstrip("."))
