"""What bills are made of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec import Struct

from ext_authz.billing.documents import Measure, PlanDocument
from ext_authz.billing.periods import Period


class UsageKey(NamedTuple):
    """What usage is summed by."""

    issuer: str
    client: str
    model: str
    model_version: str
    route: str
    outcome: str
    """What became of the calls: docs/billing.md lists them."""
    billed: bool


class Amounts(NamedTuple):
    """Sums over calls."""

    calls: int
    requests: int
    """Calls that are billed."""
    units: int
    bytes_in: int
    bytes_out: int
    seconds: Decimal

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(
            self.calls + other.calls,
            self.requests + other.requests,
            self.units + other.units,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            self.seconds + other.seconds,
        )

    def beyond(self, other: Amounts) -> Amounts:
        """What this has more, of each; where it has less, nothing."""
        return Amounts(
            max(self.calls - other.calls, 0),
            max(self.requests - other.requests, 0),
            max(self.units - other.units, 0),
            max(self.bytes_in - other.bytes_in, 0),
            max(self.bytes_out - other.bytes_out, 0),
            max(self.seconds - other.seconds, Decimal(0)),
        )


NOTHING = Amounts(0, 0, 0, 0, 0, Decimal(0))
Usage = dict[UsageKey, Amounts]


class UsageRow(Struct, frozen=True):
    """A key with its amounts, as a bill keeps it."""

    issuer: str
    client: str
    model: str
    model_version: str
    route: str
    outcome: str
    billed: bool
    calls: int
    requests: int
    units: int
    bytes_in: int
    bytes_out: int
    seconds: Decimal


def rows_of(usage: Usage) -> tuple[UsageRow, ...]:
    """In order, so that the same usage is always the same text."""
    return tuple(UsageRow(*key, *amounts) for key, amounts in sorted(usage.items()))


def usage_of(rows: Iterable[UsageRow]) -> Usage:
    """The reverse."""
    usage: Usage = {}
    for row in rows:
        key = UsageKey(row.issuer, row.client, row.model, row.model_version, row.route, row.outcome, row.billed)
        amounts = Amounts(row.calls, row.requests, row.units, row.bytes_in, row.bytes_out, row.seconds)
        usage[key] = usage.get(key, NOTHING).plus(amounts)
    return usage


def united(usage: Usage, other: Usage) -> Usage:
    """Both together."""
    return usage_of((*rows_of(usage), *rows_of(other)))


class Span(Struct, frozen=True, order=True):
    """A client while it belongs to an account: `[since, until)`."""

    issuer: str
    """`iss`."""
    client: str
    since: datetime
    until: datetime


class Line(Struct, frozen=True, kw_only=True):
    """One line of a bill."""

    kind: str
    """`fee`, `usage`, or `adjustment` of an earlier period."""
    name: str
    per: Measure | None = None
    tier: str = ""
    """`included`, or the number of the tier from 1 on; empty where there is one price."""
    quantity: Decimal
    unit_price: str
    """As in the price list."""
    amount: Decimal
    """Quantity times unit price, rounded half even to the minor unit of the currency: once per line."""
    start: datetime
    """Of the period that the usage is of: not that of the bill, for adjustments."""
    end: datetime


class Terms(Struct, frozen=True):
    """The prices of a bill, whole: what is published later changes nothing."""

    prices: str
    """Name of the price list."""
    valid_from: str
    digest: str
    """SHA-256 of the price list."""
    currency: str
    plan: str
    content: dict[str, Any]
    """The plan."""

    @property
    def document(self) -> PlanDocument:
        return PlanDocument.model_validate(self.content)


class Late(Struct, frozen=True):
    """Usage of an earlier period that was not on its invoice."""

    number: int
    """Of that invoice."""
    usage: tuple[UsageRow, ...]


class Bill(Struct, frozen=True, kw_only=True):
    """A bill without what makes it final. All that its lines were computed from is in it."""

    account: str
    title: str
    start: datetime
    end: datetime
    terms: Terms
    clients: tuple[Span, ...]
    lines: tuple[Line, ...]
    total: Decimal
    usage: tuple[UsageRow, ...]
    late: tuple[Late, ...] = ()

    @property
    def period(self) -> Period:
        return Period(self.start, self.end)


class Invoice(Struct, frozen=True, kw_only=True):
    """A bill, and what makes it final; 0 and nothing of a draft."""

    bill: Bill
    number: int = 0
    finalized_at: datetime | None = None
    finalized_by: str = ""
    previous: str = ""
    """Hash of the invoice before, of whichever account; in hex."""
    hash: str = ""

    @property
    def status(self) -> str:
        return "final" if self.number else "draft"
