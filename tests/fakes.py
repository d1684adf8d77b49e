"""Fakes of the project's Protocols. Each behaves as the real thing does, as far as tests can see."""

from __future__ import annotations


class FakeClock:
    """A clock that moves when told to: 20 November 2026, 13:00 UTC at first."""

    def __init__(self, now: float = 1_795_179_600.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self._now += seconds
        self._monotonic += seconds

    def set_wall(self, now: float) -> None:
        """Somebody sets the wall clock; no time passes."""
        self._now = now
