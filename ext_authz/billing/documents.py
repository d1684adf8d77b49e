"""The shape of a price list, checked by pydantic as a policy is; `prices.py` reads it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Literal, Self

from iso4217 import Currency
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from ext_authz.policy.documents.base import Name, Part, Shape, Text

_EXACT_DIGITS = 15
"""Of a YAML number, which comes as a 64-bit float: so many digits come back as they were written."""


def _written(value: object) -> object:
    """An amount as text, also where the file has a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    amount = Decimal(repr(value))
    if len(amount.as_tuple().digits) > _EXACT_DIGITS:
        raise ValueError(f"{value} may not be the amount as it was written: write it in quotes")
    return format(amount, "f")


def _currency(code: str) -> str:
    try:
        exponent = Currency(code).exponent
    except ValueError:
        exponent = None
    if exponent is None:
        raise ValueError(f"{code!r} is not a currency with a minor unit in ISO 4217: write one such as EUR")
    return code


def _day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day of the calendar: write one such as 2026-12-01") from None
    return text


Amount = Annotated[
    str,
    StringConstraints(pattern=r"^(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,12})?$"),
    BeforeValidator(_written),
    Shape("an amount such as 0.002, not negative, with at most 12 decimals"),
]
"""Kept as text: an amount is never a binary fraction."""
CurrencyCode = Annotated[
    str, StringConstraints(pattern=r"^[A-Z]{3}$"), AfterValidator(_currency), Shape("a code of ISO 4217 such as EUR")
]
Day = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day), Shape("a day, 2026-12-01")
]
Measure = Literal["request", "unit", "megabyte", "second"]
Quantity = Annotated[int, Field(ge=0, le=10**15)]


class TierDocument(Part):
    """A range of quantities with a price of its own."""

    up_to: Annotated[int, Field(ge=1, le=10**15)] | None = None
    """The last quantity of the range, counted from the first one beyond the included quota. Only the last tier has
    none."""
    price: Amount = Field(examples=["0.002"])
    """Of one."""


class ItemDocument(Part):
    """What one kind of usage costs. One line of the bill per tier."""

    name: Text = Field(examples=["Sentiment calls"])
    """As it stands on the bill."""
    per: Measure = Field(examples=["request"])
    """What is counted: billed requests, inference units that the model reports, megabytes (1,000,000 bytes) of requests
    and answers, or seconds that the model took."""
    models: tuple[Text, ...] = Field(default=("*",), min_length=1, max_length=100, examples=[["sentiment", "digits-*"]])
    """Names of models, or patterns with * and ?. Of items with the same `per`, the first that fits a call counts it."""
    routes: tuple[Text, ...] = Field(default=("*",), min_length=1, max_length=100, examples=[["infer", "grpc-infer"]])
    """Names of routes of the policy, or patterns: the same for how the model is called."""
    included: Quantity = 0
    """How much of it the fee of the plan includes, in each period."""
    price: Amount | None = Field(default=None, examples=["0.002"])
    """Of one, beyond what is included."""
    tiers: tuple[TierDocument, ...] = Field(
        default=(), max_length=20, examples=[[{"up_to": 1000, "price": "0.002"}, {"price": "0.001"}]]
    )
    """In place of `price`: each quantity at the price of its own range (graduated)."""

    @property
    def counts_all(self) -> bool:
        """Whatever is called, by whichever route."""
        return "*" in self.models and "*" in self.routes

    @model_validator(mode="after")
    def _priced_once(self) -> Self:
        if (self.price is None) == (not self.tiers):
            raise ValueError("an item has either a price or tiers: write one of them")
        return self

    @model_validator(mode="after")
    def _tiers_ascend(self) -> Self:
        ends = [tier.up_to for tier in self.tiers]
        finite = [end for end in ends if end is not None]
        if ends and (ends[-1] is not None or len(finite) != len(ends) - 1):
            raise ValueError("every tier but the last ends somewhere: write up_to in all others, and none in the last")
        if any(later <= earlier for earlier, later in pairwise(finite)):
            raise ValueError("tiers follow each other: write each up_to larger than the one before")
        return self


class PlanDocument(Part):
    """What subscribers of one plan pay."""

    fee: Amount = "0"
    """For each period, whatever was used."""
    items: tuple[ItemDocument, ...] = Field(default=(), max_length=200)
    """What usage costs. What no item fits costs nothing, and stands on the bill all the same."""

    @model_validator(mode="after")
    def _each_can_count(self) -> Self:
        names = [item.name for item in self.items]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two items are called {doubled!r}: use different names")
        for place, item in enumerate(self.items):
            if any(before.per == item.per and before.counts_all for before in self.items[:place]):
                raise ValueError(f"nothing is left for {item.name!r}: write it before the item for all calls")
        return self


class PriceListDocument(Part):
    """What usage costs from a day on, by plan. A published list never changes: another one takes its place."""

    version: Literal[1] = Field(examples=[1])
    """The version of this language."""
    name: Name = Field(examples=["standard"])
    """Lists with the same name follow each other."""
    currency: CurrencyCode = Field(examples=["EUR"])
    """By its code of ISO 4217, which also says how many decimals an amount is rounded to."""
    valid_from: Day = Field(examples=["2026-12-01"])
    """For periods that begin on this day or later, in UTC."""
    plans: dict[Name, PlanDocument] = Field(min_length=1, max_length=100, examples=[{"default": {"fee": "0"}}])
    """By name; those of the policy, and `default` for all others."""
