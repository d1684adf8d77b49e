"""A bill beside what callers counted themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from msgspec import Struct

from tests.e2e.billing.world import Books
from tests.recount.callers import Seen


def behind(books: Books, account: str, line: int) -> list[dict[str, Any]]:
    """The calls; those of tiers of one item are the same."""
    found = books.tollgate("explain", account, str(line), "--limit", "1000000", "--format", "json")
    calls: list[dict[str, Any]] = json.loads(found)
    return calls


class Billed(Struct, frozen=True):
    """A draft, and the calls behind its lines."""

    quantities: Counter[str]
    """By item."""
    total: Decimal
    outcomes: Counter[str]
    calls: list[dict[str, Any]]

    @classmethod
    def of(cls, books: Books, account: str) -> Billed:
        lines = json.loads(books.tollgate("draft", account, "--format", "json"))
        quantities: Counter[str] = Counter()
        calls = {}
        for line in lines:
            if line["kind"] == "usage":
                quantities[line["name"]] += int(line["quantity"])
                calls[line["name"]] = behind(books, account, line["line"])
        outcomes: Counter[str] = Counter()
        whole = books.document(account)["bill"]
        for row in whole["usage"]:
            outcomes[row["outcome"]] += row["calls"]
        return cls(quantities, Decimal(whole["total"]), outcomes, [call for found in calls.values() for call in found])


def ensure_equal(seen: Sequence[Seen], bill: Billed, unsettled: set[str]) -> None:
    """As docs/billing.md says, *Counted by the callers*; `unsettled`: what `tollgate usage reconcile` lists."""
    answered = {each.decision: each for each in seen if each.is_answered}
    failed = {each.decision for each in seen if not (each.is_answered or each.is_open)}
    billed = {call["decision_id"]: call for call in bill.calls}
    assert len(answered) == sum(each.is_answered for each in seen), "each call has a decision of its own"
    assert len(billed) == len(bill.calls), "none is billed twice"
    missing = answered.keys() - billed.keys() - unsettled
    assert not missing, f"neither billed nor listed: {[answered[each] for each in missing]}"
    assert not billed.keys() & (failed | unsettled)
    gone = billed.keys() - answered.keys()  # answered when nobody listened any more
    assert len(gone) <= sum(each.is_open for each in seen)
    for decision, call in billed.items():
        if each := answered.get(decision):
            assert (call["model"], call["bytes_in"], call["bytes_out"]) == (each.model, each.bytes_in, each.bytes_out)
    counted = [each.model for decision, each in answered.items() if decision not in unsettled]
    ensure_priced(Counter(_item(model) for model in [*counted, *(billed[each]["model"] for each in gone)]), bill)


def _item(model: str) -> str:
    return "Sentiment" if model == "sentiment" else "Other calls"


def ensure_priced(counted: Counter[str], bill: Billed) -> None:
    """By the price list of `world`: a fee of 10, and three calls of sentiment in it."""
    assert bill.quantities == counted
    sentiment, others = max(0, counted["Sentiment"] - 3), counted["Other calls"]
    assert bill.total == 10 + sentiment * Decimal("0.5") + others * Decimal("0.25")
    assert bill.outcomes["served"] + bill.outcomes["client_gone"] == counted.total()


def figures(seen: Sequence[Seen], bill: Billed, unsettled: set[str]) -> str:
    answered = {each.decision for each in seen if each.is_answered}
    billed = {call["decision_id"] for call in bill.calls}
    return (
        f"{len(seen)} calls, {len(answered)} answered = {len(answered & billed)} billed + {len(answered & unsettled)} "
        f"unsettled; {len(billed - answered)} billed of {sum(each.is_open for each in seen)} that got nothing; "
        f"{dict(bill.outcomes)}; {bill.total} EUR"
    )
