"""`plans:`, `limits:`, `flood:` and `client_address:` - how often callers may call."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from ext_authz.policy.documents.base import (
    CALENDAR_PERIODS,
    PERIODS,
    ClaimName,
    HeaderName,
    Name,
    Part,
    Rate,
    Text,
    rate,
)
from ext_authz.policy.faults import did_you_mean, shown
from ext_authz.policy.model import DEFAULT_PLAN, LimitPart

_PARTS = get_args(LimitPart)
CLAIM = "claim:"
_ANY_PART = f"one of {', '.join(_PARTS)}, or {CLAIM}NAME"
MAX_COST = 1_000_000


def _known_part(part: str) -> str:
    if part not in _PARTS and not (part.startswith(CLAIM) and part != CLAIM):
        hint = did_you_mean(part, _PARTS) or f"write {_ANY_PART}"
        raise ValueError(f"{shown(part)} is not something to count by: {hint}")
    return part


_KeyPart = Annotated[
    str,
    AfterValidator(_known_part),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(_PARTS), "errorMessage": f"write {_ANY_PART}"},
                {"type": "string", "pattern": f"^{CLAIM}", "patternErrorMessage": f"write {_ANY_PART}"},
            ]
        }
    ),
]


BillingDay = Annotated[int, Field(ge=1, le=31)]


class PlanDocument(Part):
    """Whom a plan applies to: callers with one of some roles, or with a claim that has one of some values."""

    roles: frozenset[Text] | None = Field(default=None, min_length=1, examples=[["gold"]])
    """Any of these roles."""
    claim: ClaimName | None = Field(default=None, examples=["plan"])
    """A kept claim (issuers.claims.keep), instead of roles."""
    values: frozenset[Text] | None = Field(default=None, min_length=1, examples=[["silver"]])
    """The claim has one of these values."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.claim is None) != (self.values is None):
            raise ValueError("claim and values go together: write both or neither")
        if (self.roles is None) == (self.claim is None):
            raise ValueError("write either roles, or claim and values")
        return self


class CostDocument(Part):
    """What one request costs, where that is not a fixed number."""

    header: HeaderName | None = Field(default=None, examples=["x-batch-rows"])
    """The header with the cost. A request without it, or with anything but a whole number, costs max."""
    cel: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, examples=["int(request.headers['x-batch-rows'])"]
    )
    """A whole number in CEL, instead of header."""
    max: Annotated[int, Field(ge=1, le=MAX_COST)] = Field(examples=[1000])
    """The most it costs, and what it costs when the cost cannot be determined."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.header is None) == (self.cel is None):
            raise ValueError("write either header or cel")
        return self


class LimitDocument(Part):
    """A rate limit, counted separately for every value of its key."""

    key: tuple[_KeyPart, ...] = Field(
        min_length=1, max_length=8, examples=[["user"], ["user", "model"], ["claim:tenant"]]
    )
    """What is counted separately: any of user, client, token, path, model, ip, route and claim:NAME."""
    rate: Rate | None = Field(default=None, examples=["10/minute"])
    """How many in which period. Not with plans."""
    plans: dict[Name, Rate] | None = Field(default=None, examples=[{"gold": "100/minute", "default": "10/minute"}])
    """Instead of rate: one per plan, all in the same period; default is for callers without a plan."""
    algorithm: Literal["fixed_window", "sliding_window", "gcra", "calendar"] = "fixed_window"
    """fixed_window: a period begins with the first request. sliding_window: any period that ends now. gcra: evenly
    spread, with a burst. calendar: periods of the calendar, also week, month and year."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(default=None, examples=[5])
    """gcra only: how many may come at once. Default: the number of the rate."""
    cost: Annotated[int, Field(ge=1, le=MAX_COST)] | CostDocument = Field(
        default=1, examples=[1, {"header": "x-batch-rows", "max": 1000}]
    )
    """What one request costs: a number, or the value of a header or an expression."""
    timezone: Literal["UTC"] | None = Field(default=None, examples=["UTC"])
    """calendar only: where its days begin."""
    anchor: Literal["billing"] | None = Field(default=None, examples=["billing"])
    """calendar with rates per month only: months begin on the billing day of the client (billing_days), not on the
    1st."""
    dry_run: bool = False
    """Count and report only: never refuse."""

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if (self.rate is None) == (self.plans is None):
            raise ValueError("write either rate or plans")
        if DEFAULT_PLAN not in self.rates():
            raise ValueError(f"plans need a rate for {DEFAULT_PLAN}, the callers without a plan")
        found = {period for _, period in self.rates().values()}
        if len(found) > 1:
            raise ValueError(f"the rates of all plans must have one period, not {' and '.join(sorted(found))}")
        known = CALENDAR_PERIODS if self.algorithm == "calendar" else PERIODS
        if unknown := found.difference(known):
            raise ValueError(f"a {unknown.pop()} is a period of the calendar: add algorithm: calendar")
        return self

    @model_validator(mode="after")
    def _goes_with_algorithm(self) -> Self:
        if self.burst is not None and self.algorithm != "gcra":
            raise ValueError("burst goes with algorithm: gcra: add it, or remove burst")
        if self.timezone is not None and self.algorithm != "calendar":
            raise ValueError("timezone goes with algorithm: calendar: add it, or remove timezone")
        return self

    @model_validator(mode="after")
    def _has_billing_months(self) -> Self:
        """Another key would count in the months of several clients."""
        if self.anchor is None:
            return self
        if self.algorithm != "calendar" or {period for _, period in self.rates().values()} != {"month"}:
            raise ValueError("anchor goes with algorithm: calendar and rates per month: write these, or remove anchor")
        if "client" not in self.key:
            raise ValueError("anchor: billing days are those of clients: add client to key, or remove anchor")
        return self

    def rates(self) -> dict[str, tuple[int, str]]:
        """By plan: how many in which period."""
        by_plan = self.plans if self.rate is None else {DEFAULT_PLAN: self.rate}
        return {plan: rate(text) for plan, text in (by_plan or {}).items()}


class FloodDocument(Part):
    """How often one address without a valid token may be refused in each worker process; then it must wait."""

    rate: Rate = Field(examples=["50/second"])
    """How many in which period."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(default=None, examples=[100])
    """How many at once. Default: the number of the rate."""

    @model_validator(mode="after")
    def _short_period(self) -> Self:
        if rate(self.rate)[1] not in PERIODS:
            raise ValueError(f"write a rate per {', '.join(PERIODS)}")
        return self


class ClientAddressDocument(Part):
    """How the address of the client is determined."""

    trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0
    """How many entries of X-Forwarded-For, from the right, trusted proxies wrote. 0: the client is the TCP peer."""
