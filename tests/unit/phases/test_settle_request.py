"""Reports about dry-run limits: counted every time, logged ever more rarely."""

from __future__ import annotations

import logging

import pytest

from ext_authz.observability.metrics import LIMIT_DRY_RUN
from ext_authz.phases.settle_request import DryRunReports


def test_every_time_counts_and_few_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    reports, before = DryRunReports(), LIMIT_DRY_RUN.labels("trial")._value.get()
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            reports.report("trial")
        reports.report("another")

    assert LIMIT_DRY_RUN.labels("trial")._value.get() - before == 1000
    logged = [(record.limit, record.times) for record in caplog.records]  # type: ignore[attr-defined]
    assert logged == [("trial", 2**power) for power in range(10)] + [("another", 1)]
