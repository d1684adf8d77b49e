"""Usage, plans and bills for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ext_authz.billing.documents import PlanDocument
from ext_authz.billing.model import Amounts, Bill, Invoice, Span, Terms, Usage, UsageKey, rows_of
from ext_authz.billing.periods import Period
from ext_authz.billing.pricing import lines_of, total_of

NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
PRICES = """
version: 1
name: standard
currency: EUR
valid_from: 2026-01-01
plans:
  default:
    fee: 10
    items:
      - {name: Sentiment, per: request, models: [sentiment], included: 3, price: 0.015}
      - {name: Other calls, per: request, tiers: [{up_to: 10, price: "0.10"}, {price: "0.05"}]}
      - {name: Traffic, per: megabyte, price: 0.2}
  gold: {fee: 99}
"""


def key(
    model: str = "sentiment", *, billed: bool = True, client: str = "shop", route: str = "infer", outcome: str = ""
) -> UsageKey:
    return UsageKey(
        "https://id.example", client, model, "1", route, outcome or ("served" if billed else "denied"), billed
    )


def amounts(requests: int, *, size: int = 0, seconds: str = "0", units: int | None = None) -> Amounts:
    return Amounts(requests, requests, requests if units is None else units, size, 0, Decimal(seconds))


def plan(*items: dict[str, Any], fee: str = "0") -> PlanDocument:
    return PlanDocument.model_validate({"fee": fee, "items": items})


def bill(usage: Usage, by: PlanDocument, currency: str = "EUR") -> Bill:
    lines = tuple(lines_of(usage, by, currency, NOVEMBER))
    terms = Terms("standard", "2026-01-01", "0" * 64, currency, "default", by.model_dump(mode="json"))
    return Bill(
        account="shop",
        title="The shop, =Ltd.",
        start=NOVEMBER.start,
        end=NOVEMBER.end,
        terms=terms,
        clients=(Span("https://id.example", "shop", *NOVEMBER),),
        lines=lines,
        total=total_of(lines, currency),
        usage=rows_of(usage),
    )


def draft(usage: Usage, by: PlanDocument) -> Invoice:
    return Invoice(bill=bill(usage, by))


def written(directory: Path, text: str = PRICES) -> Path:
    path = directory / "prices.yaml"
    path.write_text(text)
    return path
