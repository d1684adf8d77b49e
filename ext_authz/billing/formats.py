"""The forms of a bill, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from ext_authz.billing.export import as_csv, as_focus, as_json
from ext_authz.billing.model import Invoice
from ext_authz.billing.pdf import as_pdf

FormatName = Literal["json", "csv", "focus", "pdf"]


class Format(NamedTuple):
    """How a bill is written."""

    write: Callable[[Invoice], bytes]
    media_type: str
    ending: str
    """Of a file's name."""


FORMATS: Mapping[str, Format] = {
    "json": Format(as_json, "application/json", "json"),
    "csv": Format(as_csv, "text/csv; charset=utf-8", "csv"),
    "focus": Format(as_focus, "text/csv; charset=utf-8", "focus.csv"),
    "pdf": Format(as_pdf, "application/pdf", "pdf"),
}


def file_name(invoice: Invoice, form: str) -> str:
    """Of account, period and number, which need no quoting in a header."""
    bill = invoice.bill
    number = f"invoice-{invoice.number}" if invoice.number else "draft"
    return f"{bill.account}-{bill.start:%Y-%m-%d}-{number}.{FORMATS[form].ending}"
