"""What the parts of a policy document share: names, durations, rates, and their strictness."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Struct
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
"""Periods of a fixed length."""
CALENDAR_PERIODS = {**PERIODS, "week": 604_800, "month": 2_678_400, "year": 31_622_400}
"""Periods of the calendar; for a month and a year their greatest length."""


class Shape(Struct, frozen=True):
    """Describes in words, in `Annotated`, what a pattern accepts: "lower-case letters and digits, at most 32"."""

    text: str


class Part(BaseModel):
    """A mapping of the policy. Unknown keys are errors; the docstring of a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)


def _no_bare_number(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit: write {value}s, {value}m, {value}h or {value}d")  # noqa: TRY004 - pydantic's way
    return value


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$"),
    Shape("lower-case letters, digits and -, at most 32, no - at the start"),
]
"""Names end up in Redis keys, metric labels and headers."""

Text = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}$"),
    Shape("1 to 255 characters, none of them a control character"),
]
"""A role, a scope, a subject: a value of a claim."""

HttpUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s?#]+$"), Shape("an address such as https://id.example/realms/ml")
]
"""Kept as written: `iss` is compared byte by byte."""

Duration = Annotated[
    str,
    StringConstraints(pattern=r"^(?:[1-9][0-9]{0,6}|0)[smhd]$"),
    BeforeValidator(_no_bare_number),
    Shape("a whole number and s, m, h or d, for example 30s"),
]


def at_most(most: str, why: str) -> AfterValidator:
    """Refuses longer durations."""

    def ensured(duration: str) -> str:
        if seconds(duration) > seconds(most):
            raise ValueError(f"{why}: write at most {most}")
        return duration

    return AfterValidator(ensured)


def _up_to_a_day(duration: str) -> str:
    if not 1 <= seconds(duration) <= _SECONDS["d"]:
        raise ValueError("write a duration from 1s to 1d")
    return duration


Lasting = Annotated[Duration, AfterValidator(_up_to_a_day)]
"""A duration that cannot be unlimited."""

Rate = Annotated[
    str,
    StringConstraints(pattern=rf"^[1-9][0-9]{{0,8}}/(?:{'|'.join(CALENDAR_PERIODS)})$"),
    Shape("number/period, for example 10/minute; periods are second, minute, hour and day"),
]

HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"), Shape("the name of a header, in lower case")
]

ClaimName = Annotated[
    str,
    StringConstraints(pattern=r"^(?:[^.\\\s]|\\\.)+(?:\.(?:[^.\\\s]|\\\.)+)*$", max_length=200),
    Shape(r"keys joined by dots, such as realm_access.roles; a dot that belongs to a key is written \."),
]


def seconds(duration: str) -> int:
    """`30s`, `5m`, `1h`, `1d` to seconds."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


def rate(text: str) -> tuple[int, str]:
    """`10/minute` to (10, "minute")."""
    number, period = text.split("/")
    return int(number), period


def claim_path(name: str) -> tuple[str, ...]:
    r"""`realm_access.roles` to its keys. A claim whose name has dots: `https://id\.example/plan`."""
    return tuple(key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", name))
