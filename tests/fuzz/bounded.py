"""What every fuzz target holds: an answer in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import process_time


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Seconds of the processor, so that a busy machine is no finding."""
    started = process_time()
    yield
    took = process_time() - started
    assert took < seconds, f"took {took:.1f} s of the processor"
