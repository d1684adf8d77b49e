"""A bill as PDF, by Typst (https://typst.app/docs/): the same invoice is always the same bytes.

No clock, no font of the machine, and nothing from the network goes into it. Text of the bill reaches the template as
data, so that no name on it is read as markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ext_authz.billing.export import plain
from ext_authz.billing.model import Invoice, Line
from ext_authz.tokens.model import NotDone, Why

_TEMPLATE = Path(__file__).with_name("invoice.typ")
_MOST_ROWS = 200
"""Of usage: the JSON has all."""
_UNITS = {"request": "per request", "unit": "per unit", "megabyte": "per MB", "second": "per second"}


def as_pdf(invoice: Invoice) -> bytes:
    """Raises NotDone where the package typst is not installed."""
    try:
        import typst
    except ImportError:
        hint = "install tollgate[pdf], or take json, csv or focus"
        raise NotDone(Why.INVALID, f"PDF needs the package typst, which is not here: {hint}", "format") from None
    made: bytes = typst.compile(
        _TEMPLATE.read_bytes(), sys_inputs={"bill": json.dumps(content(invoice))}, ignore_system_fonts=True
    )
    return made


def content(invoice: Invoice) -> dict[str, Any]:
    """All text of the document."""
    bill = invoice.bill
    at = invoice.finalized_at or bill.end
    rows = [row for row in bill.usage if row.calls]
    rest = f"and {len(rows) - _MOST_ROWS} more rows, which are in the JSON" if rows[_MOST_ROWS:] else ""
    return {
        "title": f"Invoice {invoice.number}" if invoice.number else "Draft of an invoice",
        "date": {name: getattr(at, name) for name in ("year", "month", "day", "hour", "minute", "second")},
        "facts": list(_facts(invoice)),
        "lines": [_cells(number, line) for number, line in enumerate(bill.lines, 1)],
        "total": f"{plain(bill.total)} {bill.terms.currency}",
        "usage": [
            [row.client, row.model or "-", row.outcome, *map(str, (row.calls, row.requests, row.units))]
            for row in rows[:_MOST_ROWS]
        ],
        "rest": rest,
        "notes": list(_notes(invoice)),
    }


def _facts(invoice: Invoice) -> Iterator[tuple[str, str]]:
    bill = invoice.bill
    yield "For", f"{bill.title} ({bill.account})"
    yield "Period", f"{bill.period}, the end excluded"
    yield "Prices", f"{bill.terms.prices} of {bill.terms.valid_from}, plan {bill.terms.plan}"
    if invoice.finalized_at is not None:
        yield "Final since", f"{invoice.finalized_at:%Y-%m-%d %H:%M:%S} UTC"
        yield "Hash", invoice.hash
        yield "Invoice before", invoice.previous or "none"


def _cells(number: int, line: Line) -> list[str]:
    tier = f", {line.tier if line.tier == 'included' else f'tier {line.tier}'}" if line.tier else ""
    late = ", late" if line.kind == "adjustment" else ""
    period = f"{line.start:%Y-%m-%d} to {line.end:%Y-%m-%d}"
    price = f"{line.unit_price} {_UNITS[line.per]}" if line.per else line.unit_price
    return [str(number), f"{line.name}{tier}{late}", period, plain(line.quantity), price, plain(line.amount)]


def _notes(invoice: Invoice) -> Iterator[str]:
    yield (
        "Each line is quantity times price, rounded half even to the minor unit of the currency, once; the total is "
        "the sum of the lines. Billed are calls that were served, and those whose caller left while the model worked."
    )
    yield f"The price list has the SHA-256 {invoice.bill.terms.digest}."
    if not invoice.number:
        yield "This is a draft: it changes with the ledger."
