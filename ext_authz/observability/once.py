"""Logs a failure once per cause, not once per attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

STEADY = 5.0
"""Seconds without a failure after which an outage is over: what fails and works in turns is one outage."""


class OncePerCause:
    """For one operation. Call `failed` and `worked` after every attempt."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        failing: str,
        working: str,
        detail: str = "",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`failing`, `working`: the two log events; `detail` is a field of both."""
        self._logger = logger
        self._failing = failing
        self._working = working
        self._extra = {"detail": detail} if detail else {}
        self._clock = clock
        self._logged: set[str] = set()
        self._failed_at = 0.0

    def failed(self, cause: str) -> None:
        """`cause` must be the same in every attempt: no numbers that grow, no names of callers."""
        self._failed_at = self._clock()
        if cause not in self._logged:
            self._logged.add(cause)
            self._logger.error(self._failing, extra={**self._extra, "error": cause})

    def worked(self) -> None:
        if self._logged and self._clock() - self._failed_at >= STEADY:
            self._logged.clear()
            self._logger.info(self._working, extra=self._extra)
