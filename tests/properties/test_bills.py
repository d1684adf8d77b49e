"""For every plan and usage: lines add up, rows may be split, adjacent periods add up, and late usage is paid once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.billing.accounts import midnight
from ext_authz.billing.documents import PlanDocument
from ext_authz.billing.invoices import beyond
from ext_authz.billing.model import Amounts, Usage, UsageRow, rows_of, united, usage_of
from ext_authz.billing.periods import period_at
from ext_authz.billing.pricing import adjustments, lines_of, total_of
from tests.unit.billing.bills import NOVEMBER, key

CURRENCIES = st.sampled_from(["EUR", "JPY", "KWD"])
_prices = st.decimals(0, 100, places=6, allow_nan=False).map(lambda price: f"{price:f}")
_models = st.sampled_from(["sentiment", "cancer", "cars", "digits"])


@st.composite
def plans(draw: st.DrawFn) -> PlanDocument:
    items: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 4))):
        per = draw(st.sampled_from(["request", "unit", "megabyte", "second"]))
        models = draw(st.lists(st.sampled_from(["sentiment", "c*", "d?gits"]), min_size=1, max_size=2))
        item = {"name": f"item {number}", "per": per, "models": models, "included": draw(st.integers(0, 50))}
        ends = sorted(draw(st.sets(st.integers(1, 200), max_size=3)))
        if ends:
            item["tiers"] = [*({"up_to": end, "price": draw(_prices)} for end in ends), {"price": draw(_prices)}]
        else:
            item["price"] = draw(_prices)
        items.append(item)
    return PlanDocument.model_validate({"fee": draw(_prices), "items": items})


@st.composite
def rows(draw: st.DrawFn) -> list[UsageRow]:
    found = []
    for _ in range(draw(st.integers(0, 8))):
        billed = draw(st.booleans())
        calls = draw(st.integers(1, 100))
        size = draw(st.integers(0, 10**9))
        seconds = draw(st.decimals(0, 1000, places=6, allow_nan=False))
        amounts = Amounts(calls, calls * billed, draw(st.integers(0, 300)), size, size // 3, seconds)
        found.append(UsageRow(*key(draw(_models), billed=billed), *amounts))
    return found


def halves(row: UsageRow) -> tuple[UsageRow, UsageRow]:
    """Two rows that make this one."""
    ((whole, amounts),) = usage_of([row]).items()
    half = (amounts.seconds / 2).quantize(Decimal("0.000001"))
    first = Amounts(amounts.calls // 2, amounts.requests // 2, amounts.units // 2, amounts.bytes_in // 2, 0, half)
    return UsageRow(*whole, *first), UsageRow(*whole, *amounts.beyond(first))


@given(plans(), rows(), CURRENCIES)
def test_the_total_is_the_sum_of_the_lines_and_of_whole_minor_units(
    plan: PlanDocument, used: Sequence[UsageRow], currency: str
) -> None:
    lines = lines_of(usage_of(used), plan, currency, NOVEMBER)
    total = total_of(lines, currency)
    assert total == sum(line.amount for line in lines)
    assert -int(total.as_tuple().exponent) == {"EUR": 2, "JPY": 0, "KWD": 3}[currency]
    for line in lines:
        exact = line.quantity * Decimal(line.unit_price)
        assert abs(line.amount - exact) <= Decimal(1).scaleb(int(total.as_tuple().exponent)) / 2
        assert line.quantity > 0


@given(plans(), rows(), st.randoms(use_true_random=False))
def test_splitting_and_shuffling_rows_changes_nothing(plan: PlanDocument, used: list[UsageRow], random: Any) -> None:  # noqa: ANN401 - hypothesis'
    whole = lines_of(usage_of(used), plan, "EUR", NOVEMBER)
    pieces = [piece for row in used for piece in halves(row)]
    random.shuffle(pieces)
    assert lines_of(usage_of(pieces), plan, "EUR", NOVEMBER) == whole


@given(plans(), rows())
def test_each_measure_is_counted_once_and_in_full(plan: PlanDocument, used: Sequence[UsageRow]) -> None:
    """What the lines of an item count together is what its calls have, whatever the tiers."""
    usage = usage_of(used)
    free = PlanDocument.model_validate(
        {"items": [{**item.model_dump(), "included": 0, "tiers": (), "price": "1"} for item in plan.items]}
    )
    flat = {line.name: line.quantity for line in lines_of(usage, free, "EUR", NOVEMBER)}
    tiered: dict[str, Decimal] = {}
    for line in lines_of(usage, plan, "EUR", NOVEMBER):
        if line.kind == "usage":
            tiered[line.name] = tiered.get(line.name, Decimal(0)) + line.quantity
    assert tiered == flat


@given(plans(), rows(), rows(), rows())
def test_late_usage_is_paid_once_in_whichever_parts_it_comes(
    plan: PlanDocument, first: list[UsageRow], second: list[UsageRow], third: list[UsageRow]
) -> None:
    before, ever = usage_of(first), usage_of((*first, *second, *third))
    between = usage_of((*first, *second))
    late = beyond(between, before)
    last = beyond(ever, united(before, late))
    assert united(united(before, late), last) == ever
    paid = [
        *lines_of(before, plan, "EUR", NOVEMBER),
        *adjustments(before, united(before, late), plan, "EUR", NOVEMBER),
        *adjustments(between, ever, plan, "EUR", NOVEMBER),
    ]
    assert total_of(paid, "EUR") == total_of(lines_of(ever, plan, "EUR", NOVEMBER), "EUR")


@given(st.dates(date(2020, 1, 1), date(2030, 12, 31)), st.integers(0, 4000), st.integers(0, 86_399_999_999))
def test_periods_share_no_instant_and_miss_none(anchor: date, days: int, microseconds: int) -> None:
    begin = midnight(anchor)
    at = begin + timedelta(days=days, microseconds=microseconds)
    period = period_at(begin, at)
    assert period is not None
    assert period.start <= at < period.end
    assert timedelta(28) <= period.end - period.start <= timedelta(31)
    following = period_at(begin, period.end)
    assert following is not None
    assert following.start == period.end
    before = period_at(begin, period.start - timedelta(microseconds=1))
    assert before is None if period.start == begin else before and before.end == period.start


@given(rows(), st.integers(0, 8))
def test_usage_of_adjacent_periods_adds_up(used: list[UsageRow], cut: int) -> None:
    both: Usage = united(usage_of(used[:cut]), usage_of(used[cut:]))
    assert both == usage_of(used)
    assert rows_of(both) == rows_of(usage_of(reversed(used)))
