"""Drafts, which change, and final invoices in Postgres, which never do.

Numbers have no gap: a trigger takes the next one under a lock that is held until the commit, so that what is rolled
back takes none. An account's invoices follow each other without a gap between their periods.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString

import msgspec

from ext_authz.billing.accounts import FINALIZING, Account, account_named, closed_until, spans, subscription
from ext_authz.billing.model import Bill, Invoice, Late, Line, Usage, rows_of, united, usage_of
from ext_authz.billing.periods import Period, period_at
from ext_authz.billing.pricing import adjustments, lines_of, total_of
from ext_authz.billing.published import terms
from ext_authz.billing.usage import usage
from ext_authz.db.postgres import Connection
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor, NotDone, Why

GRACE = timedelta(hours=1)
"""After the end of a period, until it is finalized: access logs come later than their calls."""
LATE_PERIODS = 3
"""How many earlier invoices of an account are looked at again for usage that came late."""
NEEDS = {
    "billing_accounts": ("SELECT",),
    "billing_clients": ("SELECT",),
    "billing_subscriptions": ("SELECT",),
    "price_lists": ("SELECT",),
    "invoices": ("SELECT",),
    "usage_daily": ("SELECT",),
    "usage_changes": ("SELECT",),
    "usage_unsummed": ("SELECT",),
    "billable": ("SELECT",),
}
"""The privileges of whoever makes drafts."""
_COLUMNS: LiteralString = """
document, number, finalized_at, finalized_by, encode(previous, 'hex'), encode(hash, 'hex')
"""
_INSERT: LiteralString = f"""
INSERT INTO invoices (account, period_start, period_end, finalized_by, document) VALUES (%s, %s, %s, %s, %s)
RETURNING {_COLUMNS}
"""  # noqa: S608 - constants
_NUMBERED: LiteralString = f"SELECT {_COLUMNS} FROM invoices WHERE number = %s"  # noqa: S608 - constants
_OF_ACCOUNT: LiteralString = f"""
SELECT {_COLUMNS} FROM invoices WHERE account = %(account)s AND (%(before)s::bigint IS NULL OR number < %(before)s)
ORDER BY number DESC LIMIT %(limit)s
"""  # noqa: S608 - constants
_IN_PERIOD: LiteralString = f"SELECT {_COLUMNS} FROM invoices WHERE account = %s AND period_start = %s"  # noqa: S608 - constants
_decode = msgspec.json.Decoder(Bill).decode
encode = msgspec.json.Encoder().encode


async def bill_at(connection: Connection, name: str, at: datetime) -> Invoice:
    """Of the period that contains `at`: the final invoice if there is one, or a draft. Raises NotDone."""
    account = await account_named(connection, name)
    period = period_at(account.begin, at)
    if period is None:
        raise NotDone(Why.NOT_FOUND, f"the first period of {name} begins on {account.anchor}", "at")
    rows = await (await connection.execute(_IN_PERIOD, (name, period.start))).fetchall()
    return _invoice(rows[0]) if rows else Invoice(bill=await draft(connection, account, period))


async def draft(connection: Connection, account: Account, period: Period) -> Bill:
    """As the ledger is now. What came late stands on the first bill that is not final. Raises NotDone."""
    day = period.start.date()
    by = await terms(connection, await subscription(connection, account.name, day), day)
    clients = await spans(connection, account.name, period)
    used = await usage(connection, clients)
    lines = lines_of(used, by.document, by.currency, period)
    late: list[Late] = []
    if period == await _next(connection, account):
        late, added = await _late(connection, account.name, by.currency)
        lines += added
    return Bill(
        account=account.name,
        title=account.title,
        start=period.start,
        end=period.end,
        terms=by,
        clients=clients,
        lines=tuple(lines),
        total=total_of(lines, by.currency),
        usage=rows_of(used),
        late=tuple(late),
    )


async def finalize(
    connection: Connection, actor: Actor, name: str, now: datetime, grace: timedelta = GRACE
) -> Invoice | None:
    """The oldest period that is not final, in a transaction; None: it has not ended for as long as `grace`. From then
    on nothing changes in it. Raises NotDone."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (FINALIZING,))
    account = await account_named(connection, name)
    period = await _next(connection, account)
    if period.end + grace > now:
        return None
    bill = await draft(connection, account, period)
    values = (name, period.start, period.end, actor.name, encode(bill).decode())
    (row,) = await (await connection.execute(_INSERT, values)).fetchall()
    made = _invoice(row)
    details = {"account": name, "start": period.start, "end": period.end, "total": bill.total, "hash": made.hash}
    await audit.record(connection, actor, "invoice.finalized", f"invoice:{made.number}", details)
    return made


async def numbered(connection: Connection, number: int) -> Invoice:
    """Raises NotDone."""
    rows = await (await connection.execute(_NUMBERED, (number,))).fetchall()
    if not rows:
        raise NotDone(Why.NOT_FOUND, f"there is no invoice {number}", "number")
    return _invoice(rows[0])


async def invoices_of(connection: Connection, account: str, *, before: int | None = None, limit: int) -> list[Invoice]:
    """Final ones, the latest first."""
    cursor = await connection.execute(_OF_ACCOUNT, {"account": account, "before": before, "limit": limit})
    return [_invoice(row) for row in await cursor.fetchall()]


def late_lines(invoice: Bill, late: Usage, earlier: Usage) -> list[Line]:
    """What usage that came late adds to this bill, after `earlier` that did."""
    before = united(usage_of(invoice.usage), earlier)
    by = invoice.terms
    return adjustments(before, united(before, late), by.document, by.currency, invoice.period)


async def _next(connection: Connection, account: Account) -> Period:
    """The first period without a final invoice."""
    closed = await closed_until(connection, account.name)
    period = period_at(account.begin, closed or account.begin)
    assert period is not None  # noqa: S101 - no period ends before the anchor
    return period


async def _late(connection: Connection, account: str, currency: str) -> tuple[list[Late], list[Line]]:
    """What is in the ledger now beyond what was billed: of each of the last invoices, and the lines for it."""
    recent = await invoices_of(connection, account, limit=LATE_PERIODS)
    found: list[Late] = []
    lines: list[Line] = []
    for invoice in reversed(recent):
        if invoice.bill.terms.currency != currency:
            continue
        earlier = billed_late(recent, invoice.number)
        billed = united(usage_of(invoice.bill.usage), earlier)
        late = beyond(await usage(connection, invoice.bill.clients), billed)
        if late:
            found.append(Late(invoice.number, rows_of(late)))
            lines += late_lines(invoice.bill, late, earlier)
    return found, lines


def billed_late(invoices: Sequence[Invoice], number: int) -> Usage:
    """Usage of this invoice's period that later ones have."""
    rows = [row for each in invoices for late in each.bill.late if late.number == number for row in late.usage]
    return usage_of(rows)


def beyond(now: Usage, billed: Usage) -> Usage:
    """What there is more of, by key."""
    more = {key: amounts.beyond(billed[key]) if key in billed else amounts for key, amounts in now.items()}
    return {key: amounts for key, amounts in more.items() if any(amounts)}


def _invoice(row: Sequence[Any]) -> Invoice:
    document, number, at, by, previous, digest = row
    return Invoice(
        bill=_decode(document), number=number, finalized_at=at, finalized_by=by, previous=previous, hash=digest
    )
