"""Counters in a worker: bounded, and what has run out makes room."""

from __future__ import annotations

import pytest

from ext_authz.errors import Unavailable
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome
from tests.fakes import FakeClock
from tests.unit.settlement.world import gcra, window


def full() -> tuple[FakeClock, LocalLimits]:
    clock = FakeClock()
    limits = LocalLimits(clock, size=3)
    for take in (window(2, key="a"), window(2, key="b"), gcra(2, 2, key="c")):
        limits.take((take,))
    return clock, limits


def test_one_counter_too_many_is_no_way_in_and_harms_no_other() -> None:
    _, limits = full()
    with pytest.raises(Unavailable, match="too many"):
        limits.take((window(2, key="d"),))
    assert [limits.take((window(2, key="a"),)).outcome for _ in range(2)] == [Outcome.OK, Outcome.LIMITED]
    assert limits.take((gcra(2, 2, key="c"),)).outcome is Outcome.OK


def test_counters_that_ran_out_make_room_for_others() -> None:
    clock, limits = full()
    clock.advance(30)
    with pytest.raises(Unavailable):
        limits.take((window(2, key="d"), window(2, key="e")))
    clock.advance(30)
    assert limits.take((window(2, key="d"), window(2, key="e"))).remaining == (1, 1)
    assert len(limits) == 2
