"""Plots have the numbers of their tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.console.plots import HEIGHT, WIDTH, ceiling, plot_of
from ext_authz.console.recorded import Calls

NUMBERS = st.integers(0, 10**9)
DAYS = st.lists(st.builds(Calls, what=st.just("2026-11-29"), allowed=NUMBERS, refused=NUMBERS), min_size=1, max_size=90)


@pytest.mark.parametrize(
    ("number", "most"), [(0, 2), (2, 2), (3, 4), (5, 10), (10, 10), (11, 20), (41, 100), (101, 200)]
)
def test_the_scale_ends_at_a_round_number(number: int, most: int) -> None:
    assert ceiling(number) == most


def test_allowed_calls_stand_below_refused_ones() -> None:
    plot = plot_of([Calls("2026-11-28", 1, 1), Calls("2026-11-29")])
    assert [bar.kind for bar in plot.bars] == ["bar", "refused"]
    below, above = plot.bars
    assert above.y + above.height == pytest.approx(below.y)
    assert (below.x, below.width, below.height) == (above.x, above.width, above.height)
    assert plot.text == "2 calls from 2026-11-28 to 2026-11-29, at most 2 on one day"
    assert [label.text for label in plot.days] == ["11-28", "11-29"]


@given(DAYS)
def test_whatever_the_numbers_are_it_stays_in_its_frame(days: list[Calls]) -> None:
    plot = plot_of(days)
    for bar in plot.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.2
        assert -0.2 <= bar.y <= bar.y + bar.height <= HEIGHT
        assert bar.height >= 0
    assert len(plot.days) <= 9
