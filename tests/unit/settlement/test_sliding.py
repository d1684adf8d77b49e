"""What the sliding window does where clocks and policies change; its behaviour is in the settlement's suite."""

from __future__ import annotations

from ext_authz.settlement.local import SlidingWindow

MINUTE = 60_000
NOW = 1_795_179_600_000


def test_hits_of_the_future_happened_now() -> None:
    window = SlidingWindow()
    window.take(NOW, MINUTE, 3)
    hour_ago = NOW - 60 * MINUTE

    assert window.wait(hour_ago, 3, MINUTE, 1) == MINUTE
    assert window.wait(hour_ago + MINUTE - 1, 3, MINUTE, 1) == 1
    assert window.wait(hour_ago + MINUTE, 3, MINUTE, 3) == 0


def test_waits_for_as_many_slices_as_it_takes() -> None:
    window = SlidingWindow()
    for seconds in (0, 10, 20):
        window.take(NOW + seconds * 1000, MINUTE, 2)
    now = NOW + 30_000
    assert [window.wait(now, 6, MINUTE, cost) for cost in (1, 2, 3, 4, 5, 6)] == [
        *(30_000, 30_000),
        *(40_000, 40_000),
        *(50_000, 50_000),
    ]


def test_is_whole_a_window_after_the_last_hit() -> None:
    window = SlidingWindow()
    window.take(NOW, MINUTE, 1)
    window.take(NOW + 1000, MINUTE, 1)
    assert window.whole_at == NOW + 1000 + MINUTE
    window.wait(NOW + 2 * MINUTE, 1, MINUTE, 1)
    assert (window.total, window.whole_at) == (0, 0)
