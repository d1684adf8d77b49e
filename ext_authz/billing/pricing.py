"""From usage to lines, as a pure function: same input, same lines. Money is Decimal throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fnmatch import fnmatchcase
from functools import reduce

from iso4217 import Currency
from msgspec.structs import replace

from ext_authz.billing.documents import ItemDocument, Measure, PlanDocument
from ext_authz.billing.model import NOTHING, Amounts, Line, Usage, UsageKey
from ext_authz.billing.periods import Period

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""More digits than any quantity (15, and 6 decimals) times any price (12, and 12) has: only `rounded` rounds."""
_MEGABYTE = 1_000_000
_QUANTITY: Mapping[Measure, Callable[[Amounts], Decimal]] = {
    "request": lambda used: Decimal(used.requests),
    "unit": lambda used: Decimal(used.units),
    "megabyte": lambda used: _EXACT.divide(Decimal(used.bytes_in + used.bytes_out), Decimal(_MEGABYTE)),
    "second": lambda used: used.seconds,
}


def lines_of(usage: Usage, plan: PlanDocument, currency: str, period: Period) -> list[Line]:
    """The fee, then each item in the order of the list, each tier of it with something in it. What was not billed, or
    fits no item, makes no line."""
    lines = [_line("fee", "Fee", Decimal(1), plan.fee, currency, period)] if Decimal(plan.fee) else []
    for item, used in counted(usage, plan):
        quantity = _QUANTITY[item.per](used)
        for tier, part, price in _tiers(item, quantity):
            lines.append(_line("usage", item.name, part, price, currency, period, per=item.per, tier=tier))
    return lines


def counted(usage: Usage, plan: PlanDocument) -> Iterator[tuple[ItemDocument, Amounts]]:
    """What each item counts."""
    for item in plan.items:
        total = NOTHING
        for key, used in usage.items():
            if item_of(key, plan, item.per) is item:
                total = total.plus(used)
        yield item, total


def item_of(key: UsageKey, plan: PlanDocument, per: Measure) -> ItemDocument | None:
    """The item that counts such calls by this measure: the first that fits."""
    fitting = (
        item
        for item in plan.items
        if item.per == per and _matches(key.model, item.models) and _matches(key.route, item.routes)
    )
    return next(fitting, None) if key.billed else None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _tiers(item: ItemDocument, quantity: Decimal) -> Iterator[tuple[str, Decimal, str]]:
    """Name, quantity and price of each that has something in it."""
    included = min(quantity, Decimal(item.included))
    if included:
        yield "included", included, "0"
    tiers: Sequence[tuple[int | None, str]] = [(tier.up_to, tier.price) for tier in item.tiers]
    if item.price is not None:
        tiers = [(None, item.price)]
    rest, begin = quantity - included, 0
    for number, (end, price) in enumerate(tiers, 1):
        part = rest if end is None else min(rest, Decimal(end - begin))
        if part:
            yield str(number) if item.tiers else "", part, price
        rest, begin = rest - part, end or 0


def _line(
    kind: str, name: str, quantity: Decimal, price: str, currency: str, period: Period, *,
    per: Measure | None = None, tier: str = "",
) -> Line:  # fmt: skip
    return Line(
        kind=kind,
        name=name,
        per=per,
        tier=tier,
        quantity=quantity,
        unit_price=price,
        amount=rounded(_EXACT.multiply(quantity, Decimal(price)), currency),
        start=period.start,
        end=period.end,
    )


def rounded(amount: Decimal, currency: str) -> Decimal:
    """Half even, to the minor unit of ISO 4217."""
    return amount.quantize(Decimal(1).scaleb(-(Currency(currency).exponent or 0)), context=_EXACT)


def total_of(lines: Sequence[Line], currency: str) -> Decimal:
    """Their sum, which is not rounded again."""
    return reduce(_EXACT.add, (line.amount for line in lines), rounded(Decimal(0), currency))


def adjustments(before: Usage, after: Usage, plan: PlanDocument, currency: str, period: Period) -> list[Line]:
    """What usage that came late adds to the lines of its own period, included quota and tiers as if it had been there
    in time. An amount is the difference of two rounded ones."""
    old = {(line.name, line.per, line.tier): line for line in lines_of(before, plan, currency, period)}
    found = []
    for line in lines_of(after, plan, currency, period):
        billed = old.get((line.name, line.per, line.tier))
        quantity = _EXACT.subtract(line.quantity, billed.quantity) if billed else line.quantity
        if quantity:
            amount = _EXACT.subtract(line.amount, billed.amount) if billed else line.amount
            found.append(replace(line, kind="adjustment", quantity=quantity, amount=amount))
    return found
