"""Bills as others read them: JSON, CSV, and the columns of FOCUS. The same invoice is always the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from ext_authz.billing.model import Invoice, Line
from ext_authz.report import uncomputed, utc

LINE = ("line", "kind", "name", "per", "tier", "period", "quantity", "unit_price", "amount", "currency")
_UNITS = {"request": "Requests", "unit": "Units", "megabyte": "MB", "second": "Seconds", None: "Periods"}
FOCUS = (
    *("BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd"),
    *("ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency"),
    *("BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "ListUnitPrice", "ContractedUnitPrice"),
    *("PricingCategory", "PricingQuantity", "PricingUnit", "ConsumedQuantity", "ConsumedUnit"),
    *("InvoiceId", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId"),
)


def as_json(invoice: Invoice) -> bytes:
    """The whole invoice: lines, prices, usage, and what makes it final."""
    document = {"status": invoice.status, **msgspec.to_builtins(invoice)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def rows(invoice: Invoice) -> list[dict[str, object]]:
    """The lines, with the fields `LINE`."""
    return [
        {
            "line": number,
            "kind": line.kind,
            "name": line.name,
            "per": line.per or "period",
            "tier": line.tier,
            "period": f"{line.start:%Y-%m-%d}/{line.end:%Y-%m-%d}",
            "quantity": plain(line.quantity),
            "unit_price": line.unit_price,
            "amount": plain(line.amount),
            "currency": invoice.bill.terms.currency,
        }
        for number, line in enumerate(invoice.bill.lines, 1)
    ]


def as_csv(invoice: Invoice) -> bytes:
    """One row per line."""
    return _table(LINE, rows(invoice))


def as_focus(invoice: Invoice) -> bytes:
    """One row per line, with columns of FOCUS 1.2 (https://focus.finops.org/focus-specification/)."""
    return _table(FOCUS, [_focus(invoice, number, line) for number, line in enumerate(invoice.bill.lines, 1)])


def _focus(invoice: Invoice, number: int, line: Line) -> dict[str, object]:
    bill, quantity, unit = invoice.bill, plain(line.quantity), _UNITS[line.per]
    price = "0" if line.tier == "included" else line.unit_price
    sku = f"{bill.terms.plan}/{line.name}"
    values = (
        *(bill.account, bill.title, bill.terms.currency, focus_time(bill.start), focus_time(bill.end)),
        *(focus_time(line.start), focus_time(line.end)),
        "Purchase" if line.kind == "fee" else "Usage",
        "Correction" if line.kind == "adjustment" else "",
        f"{line.name} {line.tier}".strip(),
        "Recurring" if line.kind == "fee" else "Usage-Based",
        *(plain(line.amount),) * 4,
        *(price,) * 2,
        *("Standard", quantity, unit),
        *((quantity, unit) if line.per else ("", "")),
        *(invoice.number or "", "AI and Machine Learning", "Model inference"),
        *(f"{bill.terms.prices}/{sku}", f"{bill.terms.prices}/{bill.terms.valid_from}/{sku}/{line.tier}"),
    )
    return dict(zip(FOCUS, values, strict=True))


def focus_time(at: datetime) -> str:
    """As FOCUS has it: whole seconds of UTC."""
    return utc(at).replace(".000", "")


def plain(number: Decimal) -> str:
    """Without an exponent."""
    return format(number, "f")


def _table(columns: Sequence[str], table: list[dict[str, object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([uncomputed(row[name]) for name in columns] for row in table)
    return out.getvalue().encode()
