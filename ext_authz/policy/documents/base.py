"""What the parts of a policy document share: names, durations, rates, and their strictness."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, get_args

from msgspec import Struct
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
"""Periods of a fixed length."""
CALENDAR_PERIODS = {**PERIODS, "week": 604_800, "month": 2_678_400, "year": 31_622_400}
"""Periods of the calendar; for a month and a year their greatest length."""


_LONG_NAMES = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
_UNIT_SPELLINGS = {
    **{short: short for short in _LONG_NAMES},
    **{spelling: short for short, name in _LONG_NAMES.items() for spelling in (name, f"{name}s")},
    **dict.fromkeys(("sec", "secs"), "s"),
    **dict.fromkeys(("min", "mins"), "m"),
    **dict.fromkeys(("hr", "hrs"), "h"),
}
MAX_RATE = 999_999_999


class Shape(Struct, frozen=True):
    """Describes in words, in `Annotated`, what a pattern accepts: "lower-case letters and digits, at most 32"."""

    text: str
    mended: Callable[[str], str] | None = None
    """What the author may have meant by a text that does not fit; it may not fit either."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Editors (yaml-language-server) show the text in place of the pattern."""
        return handler(core) | {"patternErrorMessage": f"write {self.text}"}


def shape(form: Any) -> Shape:  # noqa: ANN401 - a type hint is any object
    """That of an `Annotated`."""
    return next(extra for extra in get_args(form) if isinstance(extra, Shape))


class Part(BaseModel):
    """A mapping of the policy. Unknown keys are errors; the docstring of a field is its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        defer_build=True,
        model_title_generator=lambda part: part.__name__.removesuffix("Document"),  # editors show it
    )


def _with_unit(value: object) -> object:
    """A duration, or what is wrong with it in more words than a pattern has."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit: write {value}s, {value}m, {value}h or {value}d")  # noqa: TRY004 - pydantic's way
    found = re.fullmatch(r"([0-9]+) ?([a-z]+)", value) if isinstance(value, str) else None
    unit = _UNIT_SPELLINGS.get(found[2], "") if found else ""
    if found and unit in _SECONDS and found[2] != unit:
        raise ValueError(f"{value!r} is not a duration: write {int(found[1])}{unit}")
    return value


def _with_period(value: object) -> object:
    """A rate, or what is wrong with it in more words than a pattern has."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no period: write {value}/minute, or another period")  # noqa: TRY004 - pydantic's way
    found = _RATE.fullmatch(value.lower()) if isinstance(value, str) else None
    if not found or not isinstance(value, str):
        return value
    number, period = int(re.sub("[_,]", "", found[1])), found[2]
    if not 1 <= number <= MAX_RATE:
        hint = "; to allow nothing, write no route for it" if number == 0 else ""
        raise ValueError(f"the number of a rate is from 1 to {MAX_RATE}, not {found[1]}{hint}")
    short = _UNIT_SPELLINGS.get(period)
    if short is None:
        raise ValueError(f"{period!r} is not a period: write {number}/minute, or per {', '.join(CALENDAR_PERIODS)}")
    if value != f"{number}/{_LONG_NAMES[short]}":
        raise ValueError(f"{value!r} is not a rate: write {number}/{_LONG_NAMES[short]}")
    return value


_RATE = re.compile(r"([0-9][0-9_,]*)\s*(?:(?:requests?|reqs?|calls?|r)?\s*(?:/|\bper\b|\ba\b)\s*1?\s*)([a-z]+)")


def _in_lower_case(text: str) -> str:
    return text.lower()


def _as_name(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _as_url(text: str) -> str:
    return re.split(r"[\s?#]", f"https://{text.partition('://')[2] or text}")[0]


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$"),
    Shape("lower-case letters, digits and -, at most 32, no - at the start", _as_name),
]
"""Names end up in Redis keys, metric labels and headers."""

Text = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}$"),
    Shape("1 to 255 characters, none of them a control character"),
]
"""A role, a scope, a subject: a value of a claim."""

HttpUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s?#]+$"),
    Shape("an address such as https://id.example/realms/ml", _as_url),
]
"""Kept as written: `iss` is compared byte by byte."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

IssuerName = Annotated[
    str,
    StringConstraints(pattern=r"^(?:https?://[^\s?#]+|[A-Za-z0-9_.+/-]+)$", max_length=255),
    Shape("an address such as https://id.example/realms/ml", _as_url),
]
"""`iss`: an address, or the name of a service."""

Duration = Annotated[
    str,
    StringConstraints(pattern=r"^(?:[1-9][0-9]{0,6}|0)[smhd]$"),
    BeforeValidator(_with_unit),
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
        raise ValueError(f"{duration} is too short or too long: write a duration from 1s to 1d")
    return duration


Lasting = Annotated[Duration, AfterValidator(_up_to_a_day)]
"""A duration that cannot be unlimited."""

Rate = Annotated[
    str,
    StringConstraints(pattern=rf"^[1-9][0-9]{{0,8}}/(?:{'|'.join(CALENDAR_PERIODS)})$"),
    BeforeValidator(_with_period),
    Shape("number/period, for example 10/minute; periods are second, minute, hour and day"),
]

HeaderName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"),
    Shape("the name of a header, in lower case", _in_lower_case),
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
