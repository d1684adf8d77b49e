"""The page of a bill: the same bytes, and the same numbers as in its JSON."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from datetime import UTC, datetime, timedelta

import pypdf
import pytest
from msgspec.structs import replace

from ext_authz.billing.export import as_json
from ext_authz.billing.model import Invoice
from ext_authz.billing.pdf import as_pdf
from ext_authz.tokens.model import NotDone
from tests.unit.billing.bills import amounts, bill, draft, key, plan

BY = plan(
    {"name": "#panic[x] *Calls* <b> $1$", "per": "request", "included": 3, "price": "0.5"},
    {"name": "Traffic", "per": "megabyte", "price": "2"},
    fee="10",
)
USAGE = {key(client="#sys.inputs \\ `raw`"): amounts(5, size=1_500_000), key(billed=False): amounts(0)}
AT = datetime(2026, 12, 1, 1, 2, 3, tzinfo=UTC)


def text(content: bytes) -> str:
    pages = pypdf.PdfReader(io.BytesIO(content)).pages
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in pages))


def test_the_same_invoice_is_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = as_pdf(draft(USAGE, BY))
    begun = time.time()
    while time.time() < begun + 1.1:  # another second, which a clock in the document would show
        again = as_pdf(draft(USAGE, BY))
    assert again == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert as_pdf(draft(USAGE, BY)) == first
    assert as_pdf(draft({}, BY)) != first


def test_it_says_what_the_json_says() -> None:
    invoice = Invoice(
        bill=bill(USAGE, BY), number=17, finalized_at=AT, finalized_by="dora", previous="ab" * 32, hash="cd" * 32
    )
    found, document = text(as_pdf(invoice)), json.loads(as_json(invoice))
    for number, line in enumerate(document["bill"]["lines"], 1):
        tier = {"": "", "included": ", included"}[line["tier"]]
        per = {"request": " per request", "megabyte": " per MB", None: ""}[line["per"]]
        numbers = f"{line['quantity']} {line['unit_price']}{per} {line['amount']}"
        assert f"{number} {line['name']}{tier} 2026-11-01 to 2026-12-01 {numbers}" in found
    assert f"Total: {document['bill']['total']} EUR" in found
    assert "Invoice 17" in found
    assert document["hash"] in found.replace(" ", "")
    assert "draft" not in found


def test_what_is_on_a_bill_is_text_and_not_markup() -> None:
    found = text(as_pdf(draft(USAGE, BY)))
    assert "#panic[x] *Calls* <b> $1$, included" in found
    assert "#sys.inputs \\ `raw`" in found


def test_many_rows_are_cut_and_that_is_said() -> None:
    many = {key(f"model-{number}"): amounts(1) for number in range(201)}
    assert "and 1 more rows, which are in the JSON" in text(as_pdf(draft(many, plan())))


def test_its_date_is_that_of_the_invoice() -> None:
    made = replace(draft(USAGE, BY), number=1, finalized_at=AT)
    found = pypdf.PdfReader(io.BytesIO(as_pdf(made))).metadata
    assert found is not None
    assert found.creation_date is not None
    assert abs(found.creation_date.replace(tzinfo=UTC) - AT) < timedelta(seconds=1)


def test_without_typst_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(NotDone, match=r"PDF needs the package typst, which is not here: install tollgate\[pdf\]"):
        as_pdf(draft(USAGE, BY))
