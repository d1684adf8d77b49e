"""How the tests are shared out to the workers of pytest-xdist: what uses the same servers together, the longest first.

A unit is a file, unless `TOGETHER` says otherwise. A long unit that begins last would leave the other workers idle.
"""

from __future__ import annotations

import re

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_WITH_A_WORLD = "(escapes|framing|headers|paths|streams|tokens)"
TOGETHER = {
    "keycloak": re.compile(
        "tests/(docs/.*keycloak|e2e/(console/test_walk|realm/test_comparison|test_first_hour|(identity|poller|signals)/test_keycloak))"
    ),
    "stack": re.compile(r"tests/e2e/stack/test_(?!experiment|keycloak|up)"),
    "training": re.compile("tests/e2e/training/"),
    "mlflow": re.compile("tests/e2e/mlflow/"),
    "gateway": re.compile("tests/e2e/gateway/"),
    "envoy": re.compile(rf"tests/e2e/hostile/test_{_WITH_A_WORLD}.*\[envoy"),
    "istio": re.compile(rf"tests/e2e/hostile/test_{_WITH_A_WORLD}.*\[istio"),
    "gateway-api": re.compile(rf"tests/e2e/hostile/test_{_WITH_A_WORLD}.*\[gateway-api"),
}
"""Tests by a server that they share: each worker would start its own, which ends with the tests of its folder."""

LONGEST_FIRST = (
    *TOGETHER,
    "tests/docs/test_guides.py",
    "tests/e2e/stack/test_up.py",
    "tests/e2e/stack/test_experiment.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/observability/test_monitoring.py",
    "tests/docs/test_site.py",
)
"""Each takes half a minute or more; the others as they are collected."""


def unit(nodeid: str) -> str:
    """Of one test."""
    shares = (name for name, tests in TOGETHER.items() if tests.match(nodeid))
    return next(shares, nodeid.partition("::")[0])


def place(item: pytest.Item) -> int:
    """In the order of a run."""
    name = unit(item.nodeid)
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Of `--dist loadfile`."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
