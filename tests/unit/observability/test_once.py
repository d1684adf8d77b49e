"""What fails is said once per cause, however often it is tried and however it comes and goes."""

from __future__ import annotations

import logging

import pytest

from ext_authz.observability.once import STEADY, OncePerCause

LOGGER = logging.getLogger("once")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trouble(clock: Clock) -> OncePerCause:
    return OncePerCause(LOGGER, failing="it fails", working="it works", detail="shard 0", clock=clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    return [(record.getMessage(), record.__dict__.get("error")) for record in caplog.records]


def test_each_cause_is_logged_once_however_they_alternate(
    trouble: OncePerCause, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for attempt in range(300):
            clock.now = attempt * STEADY / 2
            trouble.failed("full" if attempt % 3 else "away")
            trouble.worked()  # a heartbeat got through
    assert lines(caplog) == [("it fails", "away"), ("it fails", "full")]
    assert {record.__dict__["detail"] for record in caplog.records} == {"shard 0"}


def test_recovery_is_logged_and_the_next_failure_too(
    trouble: OncePerCause, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trouble.worked()
        trouble.failed("full")
        clock.now = STEADY
        trouble.worked()
        trouble.worked()
        trouble.failed("full")
    assert lines(caplog) == [("it fails", "full"), ("it works", None), ("it fails", "full")]
