"""Says what fails once per cause, not once per attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

STEADY = 5.0
"""Seconds without a failure after which it counts as over: what comes and goes meanwhile is one trouble."""


class OncePerCause:
    """For one thing that works or does not. Tell it both, as often as is convenient."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        failing: str,
        working: str,
        detail: str = "",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`failing`, `working`: the two events of the log; `detail` goes with both."""
        self._logger = logger
        self._failing = failing
        self._working = working
        self._extra = {"detail": detail} if detail else {}
        self._clock = clock
        self._said: set[str] = set()
        self._failed_at = 0.0

    def failed(self, cause: str) -> None:
        """`cause` must not change from attempt to attempt: no numbers that grow, no names of callers."""
        self._failed_at = self._clock()
        if cause not in self._said:
            self._said.add(cause)
            self._logger.error(self._failing, extra={**self._extra, "error": cause})

    def worked(self) -> None:
        if self._said and self._clock() - self._failed_at >= STEADY:
            self._said.clear()
            self._logger.info(self._working, extra=self._extra)
