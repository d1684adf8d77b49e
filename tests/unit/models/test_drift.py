"""The distance of answers from those that the model gave when it was judged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

SHARES = {"positive": 0.5, "neutral": 0.2, "negative": 0.3}


class Gauge:
    """Triton's module, its family of metrics and the one metric, in one."""

    GAUGE = "gauge"

    def __init__(self) -> None:
        self.MetricFamily: Any = self
        self.value: float | None = None

    def __call__(self, name: str, description: str, kind: str) -> Gauge:
        assert (name, kind) == ("tollgate_model_label_drift", self.GAUGE)
        return self

    def Metric(self, labels: dict[str, str]) -> Gauge:  # noqa: N802 - Triton's name of it
        assert labels == {"model": "m", "version": "2"}
        return self

    def set(self, value: float) -> None:
        self.value = value


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> Gauge:
    gauge = Gauge()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", gauge)
    return gauge


def test_it_is_the_distance_of_the_last_thousand(gauge: Gauge, module: Callable[[str], ModuleType]) -> None:
    drift = module("tollgate_models.drift").Drift("m", "2", SHARES)
    drift.note(["positive"] * 999)
    assert gauge.value is None
    drift.note(["positive"])
    assert gauge.value == pytest.approx(0.5)
    drift.note(["positive"] * 500 + ["neutral"] * 200 + ["negative"] * 300)
    assert gauge.value == pytest.approx(0)
    drift.note(["unheard of"] * 1000)
    assert gauge.value == pytest.approx(1)
