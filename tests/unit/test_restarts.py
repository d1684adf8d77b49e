"""Started again, a little later each time, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from ext_authz import restarts
from ext_authz.restarts import MOST, WITHIN, GivenUp, Restarts, restarting
from tests.fakes import FakeClock


def test_each_time_a_little_later() -> None:
    again = Restarts("worker", FakeClock())
    assert [round(again.next("it ended"), 1) for _ in range(MOST)] == [0.1, 0.3, 0.9, 2.7, 3.0]


def test_not_for_ever_and_the_reason_is_reported() -> None:
    again = Restarts("worker", FakeClock())
    for _ in range(MOST):
        again.next("it ended")
    with pytest.raises(GivenUp, match="it ended with status 7, and it was the end number 6 within 10 minutes"):
        again.next("it ended with status 7")


def test_what_ends_now_and_then_is_always_started_again() -> None:
    clock = FakeClock()
    again = Restarts("worker", clock)
    for _ in range(100):
        clock.advance(WITHIN / MOST)
        again.next("it ended")


async def test_a_task_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "_SHORTEST", 0)
    stop, starts = asyncio.Event(), 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts == MOST:
            stop.set()
        if starts % 2:
            raise RuntimeError("a bug")

    await restarting("work", work, stop)
    assert starts == MOST


async def test_a_task_that_fails_too_often_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "_SHORTEST", 0)

    async def work() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(GivenUp, match="work failed: RuntimeError: a bug, and it was the end number 6"):
        await restarting("work", work, asyncio.Event())


async def test_a_task_that_is_cancelled_is_not_started_again() -> None:
    task = asyncio.create_task(restarting("work", asyncio.Event().wait, asyncio.Event()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
