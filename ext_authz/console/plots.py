"""The geometry of small plots; `plot.html` draws them as SVG. A table beside each has the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ext_authz.console.recorded import Calls

WIDTH, HEIGHT = 720, 240
_LEFT, _TOP, _BOTTOM = 64, 16, 32
_GAP = 0.25
"""Share of a column that stays empty."""
_LABELS = 8


class Bar(Struct, frozen=True):
    """A rectangle; `kind` is its class in the stylesheet."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Label(Struct, frozen=True):
    """Text below a column, or beside a line."""

    text: str
    x: float
    y: float


class Plot(Struct, frozen=True):
    """Bars per day: allowed calls below, refused ones above."""

    text: str
    """The same in one sentence."""
    bars: tuple[Bar, ...]
    days: tuple[Label, ...]
    lines: tuple[Label, ...]
    left: float = _LEFT
    width: float = WIDTH
    height: float = HEIGHT


def plot_of(days: Sequence[Calls]) -> Plot:
    """`days`: in their order, at least one."""
    sums = [day.allowed + day.refused for day in days]
    most, every = ceiling(max(sums)), -(-len(days) // _LABELS)
    wide = (WIDTH - _LEFT) / len(days)
    bars = (bar for at, day in enumerate(days) for bar in _column(_LEFT + at * wide, wide, day, most))
    labels = [Label(day.what[5:], round(_LEFT + (at + 0.5) * wide, 1), HEIGHT - 9) for at, day in enumerate(days)]
    lines = (Label(f"{most * share:g}", _LEFT - 6, _y(share)) for share in (0, 0.5, 1))
    text = f"{sum(sums)} calls from {days[0].what} to {days[-1].what}, at most {max(sums)} on one day"
    return Plot(text, tuple(bars), tuple(labels[::every]), tuple(lines))


def ceiling(number: int) -> int:
    """The next of 2, 4, 10, 20, 40, 100 and so on: half of it is a whole number."""
    power = 1
    while True:
        for step in (2, 4, 10):
            if number <= step * power:
                return step * power
        power *= 10


def _column(x: float, wide: float, day: Calls, most: int) -> list[Bar]:
    x, width, floor, found = round(x + wide * _GAP / 2, 1), round(wide * (1 - _GAP), 1), 0, []
    for kind, number in (("bar", day.allowed), ("refused", day.refused)):
        if number:
            top, bottom = _y((floor + number) / most), _y(floor / most)
            found.append(Bar(kind, x, top, width, round(bottom - top, 1)))
        floor += number
    return found


def _y(share: float) -> float:
    return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)
