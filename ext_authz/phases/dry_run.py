"""What shadow limits would have refused: counted, and logged ever more rarely."""

from __future__ import annotations

import logging

from ext_authz.observability.metrics import LIMIT_SHADOW

logger = logging.getLogger(__name__)


class ShadowReports:
    """Logs the first, second, fourth, eighth time and so on, per limit: bounded, whatever the traffic."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def report(self, limit: str) -> None:
        LIMIT_SHADOW.labels(limit).inc()
        times = self._times[limit] = self._times.get(limit, 0) + 1
        if times & (times - 1) == 0:
            logger.info("shadow limit: would have refused", extra={"limit": limit, "times": times})
