"""Whether final invoices are what they were: the chain, and the arithmetic.

Everything is computed here and not in Postgres, whose functions its administrators can replace.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any, LiteralString, NamedTuple

import msgspec

from ext_authz.billing.invoices import billed_late, late_lines
from ext_authz.billing.model import Bill, Invoice, usage_of
from ext_authz.billing.pricing import lines_of, total_of
from ext_authz.db.postgres import Connection

_PAGE = 100
# What invoice_hash() of the migration hashes after the hash of the invoice before.
_CHAIN: LiteralString = """
SELECT number, previous, hash, document, jsonb_build_array(
    number, account, extract(epoch FROM period_start)::text, extract(epoch FROM period_end)::text,
    extract(epoch FROM finalized_at)::text, finalized_by, role, document)::text
FROM invoices WHERE number > %s ORDER BY number LIMIT %s
"""
_decode = msgspec.json.Decoder(Bill).decode


class Head(NamedTuple):
    """Up to which invoice everything was seen to be good; kept where nobody who writes to Postgres writes."""

    number: int
    hash: str
    """In hex."""

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


START = Head(0, "")


class Verdict(NamedTuple):
    """What is wrong with the invoices; empty `why`: nothing."""

    head: Head
    broken_at: int = 0
    """Number of the first invoice that is not good."""
    why: str = ""


async def verify(connection: Connection, expected: Head = START) -> Verdict:
    """`expected`: the chain must lead through it; without one, invoices that are missing at its end do not show."""
    head, earlier = START, dict[int, tuple[Bill, list[Invoice]]]()
    async for row in _rows(connection):
        if why := _broken(head, row) or _miscalculated(row, earlier):
            return Verdict(head, head.number + 1, why)
        head = Head(row[0], row[2].hex())
        if head.number == expected.number and head.hash != expected.hash:
            return Verdict(head, head.number, "it is another invoice than the one that was there")
    if expected.number > head.number:
        return Verdict(head, head.number + 1, "invoices that were there are missing at the end")
    return Verdict(head)


async def _rows(connection: Connection) -> AsyncIterator[tuple[Any, ...]]:
    number = 0
    while rows := await (await connection.execute(_CHAIN, (number, _PAGE))).fetchall():
        for row in rows:
            yield row
        number = rows[-1][0]


def _broken(head: Head, row: tuple[Any, ...]) -> str:
    """Empty where the invoice follows the head."""
    number, previous, digest, _, content = row
    if number != head.number + 1:
        return "it is missing"
    if previous.hex() != head.hash:
        return "it does not follow the invoice before it"
    if hashlib.sha256(previous + content.encode()).digest() != digest:
        return "it was changed"
    return ""


def _miscalculated(row: tuple[Any, ...], earlier: dict[int, tuple[Bill, list[Invoice]]]) -> str:
    """Computes all lines again from the usage that the invoice itself has. `earlier`: bills by number, each with the
    invoices that adjust it; this one is added."""
    number, *_, document, _ = row
    bill = _decode(document)
    by = bill.terms
    lines = lines_of(usage_of(bill.usage), by.document, by.currency, bill.period)
    for late in bill.late:
        adjusted, adjusting = earlier[late.number]
        lines += late_lines(adjusted, usage_of(late.usage), billed_late(adjusting, late.number))
        adjusting.append(Invoice(bill=bill, number=number))
    earlier[number] = bill, []
    if tuple(lines) != bill.lines or total_of(lines, by.currency) != bill.total:
        return "its lines are not what its usage and prices make"
    return ""
