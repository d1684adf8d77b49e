"""The calls behind one line of a bill."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from ext_authz.billing.invoices import invoices_of
from ext_authz.billing.model import Bill, Invoice, Line, UsageKey
from ext_authz.billing.pricing import item_of
from ext_authz.billing.usage import events
from ext_authz.db.postgres import Connection
from ext_authz.tokens.model import NotDone, Why

_PAGE = 5000
"""Calls that are looked at at a time."""
_PERIODS = 100


class Calls(NamedTuple):
    """Some, in the order of their ids, with the fields `usage.EVENT`."""

    found: list[dict[str, Any]]
    last: UUID | None
    """After which to go on; None: there are no more."""


async def calls_of(
    connection: Connection, invoice: Invoice, number: int, *, after: UUID | None = None, limit: int
) -> Calls:
    """Those that line `number` (from 1 on) counts, among a few thousand: there may be fewer than `limit`, and more
    after `last`. Of tiers of one item, and of an adjustment and the line that it adjusts, they are the same calls.
    Raises NotDone."""
    line = line_of(invoice.bill, number)
    bill = await _billed(connection, invoice, line)
    if line.per is None:
        return Calls([], None)
    plan, found = bill.terms.document, list[dict[str, Any]]()
    page = await events(connection, bill.clients, after=after, limit=_PAGE)
    for event in page:
        item = item_of(UsageKey(*(event[name] for name in UsageKey._fields)), plan, line.per)
        if item is not None and item.name == line.name:
            found.append(event)
        if len(found) == limit:
            return Calls(found, event["decision_id"])
    return Calls(found, page[-1]["decision_id"] if len(page) == _PAGE else None)


def line_of(bill: Bill, number: int) -> Line:
    """Raises NotDone."""
    if not 1 <= number <= len(bill.lines):
        lines = f"it has lines 1 to {len(bill.lines)}" if bill.lines else "it has none"
        raise NotDone(Why.NOT_FOUND, f"there is no line {number}: {lines}", "line")
    return bill.lines[number - 1]


async def _billed(connection: Connection, invoice: Invoice, line: Line) -> Bill:
    """The bill of the period that the line is of."""
    if line.start == invoice.bill.start:
        return invoice.bill
    found = await invoices_of(connection, invoice.bill.account, limit=_PERIODS)
    adjusted = (each.bill for each in found if each.bill.start == line.start)
    return next(adjusted)
