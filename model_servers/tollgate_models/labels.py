"""How often a model answers each of its labels, by variant: `tollgate_model_labels_total` at Triton's metrics port.

Labels are from the model's own list, and the variant from the header that the authorizer always sets. As somebody may
call Triton without it, there is a bound on variants too. Where Triton's environment says which variant it serves
(TOLLGATE_VARIANT), answers count for that one: what has another in its header is a copy. Answers of a response cache
are not counted.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import triton_python_backend_utils as triton

logger = logging.getLogger(__name__)

MOST_VARIANTS = 16
"""Of one model; others count as none."""

NONE = "-"
"""What the authorizer writes where it chose no variant."""

_STARTED = time.time()
_START = "tollgate_model_start_time_seconds"
_START_HELP = "When the process of a model started, in seconds since the epoch: a change is a restart."
_NAME = "tollgate_model_labels_total"
_HELP = "Answers of a model, by label, and by the variant that the authorizer chose (empty: none)."


def keep_for_ever(holder: object) -> None:
    """For whoever holds metrics of Triton: one more reference, which nobody gives back.

    Triton's stub is gone before Python removes its objects; a metric that goes then ends the process by SIGSEGV, before
    what is registered with `atexit` has run.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder))


@cache
def report_start(model: str, version: str) -> None:
    """As `process_start_time_seconds` of other programs; from the first answer on."""
    family = triton.MetricFamily(name=_START, description=_START_HELP, kind=triton.MetricFamily.GAUGE)
    metric = family.Metric(labels={"model": model, "version": version})
    metric.set(_STARTED)
    keep_for_ever((family, metric))


class Labels:
    """One per model instance; instances of one model add to the same series."""

    def __init__(self, model: str, version: str, labels: Iterable[str]) -> None:
        self._of_model = {"model": model, "version": version}
        self._labels = tuple(labels)
        self._own = os.environ.get("TOLLGATE_VARIANT", "")
        self._family = triton.MetricFamily(name=_NAME, description=_HELP, kind=triton.MetricFamily.COUNTER)
        self._series = {NONE: self._make("")}
        keep_for_ever(self)

    def count(self, answered: Iterable[tuple[str, str]]) -> None:
        """`answered`: variant and label of each row."""
        for (variant, label), times in Counter(answered).items():
            if label in self._labels:
                self._of(variant)[label].increment(times)
            else:
                logger.error("%s answered %r, which is not in its list of labels", self._of_model, label)

    def _of(self, variant: str) -> dict[str, Any]:
        variant = self._own if self._own and variant != NONE else variant
        if variant not in self._series and len(self._series) <= MOST_VARIANTS:
            self._series[variant] = self._make(variant)
        return self._series.get(variant, self._series[NONE])

    def _make(self, variant: str) -> dict[str, Any]:
        """A series of each label, at 0."""
        rest = {**self._of_model, "variant": variant}
        return {label: self._family.Metric(labels={**rest, "label": label}) for label in self._labels}
