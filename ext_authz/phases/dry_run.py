"""What dry-run limits would have refused: counted, and logged ever more rarely."""

from __future__ import annotations

import logging

from ext_authz.observability.metrics import LIMIT_DRY_RUN

logger = logging.getLogger(__name__)


class DryRunReports:
    """Logs the first, second, fourth, eighth time and so on, per limit: bounded, whatever the traffic."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def report(self, limit: str) -> None:
        LIMIT_DRY_RUN.labels(limit).inc()
        times = self._times[limit] = self._times.get(limit, 0) + 1
        if times & (times - 1) == 0:
            logger.info("dry-run limit: would have refused", extra={"limit": limit, "times": times})
