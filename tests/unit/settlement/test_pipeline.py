"""What waits for Redis is bounded, in events and in bytes."""

from __future__ import annotations

import pytest

from ext_authz.settlement import pipeline
from ext_authz.settlement.pipeline import Queue


@pytest.fixture
def queue() -> Queue:
    return Queue(1.0, lambda: None)


def test_large_events_find_no_room_long_before_many(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED_BYTES", 1000)
    for _ in range(20):
        queue.record_degraded(b"x" * 100, 0)
    assert not queue.has_room
    assert len(queue.take().refusals) == 10
    assert queue.has_room


def test_what_is_put_back_counts_again(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED_BYTES", 1000)
    for _ in range(10):
        queue.record(b"x" * 100, 0)
    batch = queue.take()
    queue.put_back_refusals(batch)
    assert not queue.has_room
    assert len(queue.take().refusals) == 10
