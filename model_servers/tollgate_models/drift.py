"""How far a model's latest labels are from those that it gave when it was judged: `tollgate_model_label_drift`.

Half the sum of the differences of shares: 0 is the same distribution, 1 no label in common. A model that drifts may be
right all the same: its callers may ask other things than those it was judged by. Somebody has to look.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

import triton_python_backend_utils as triton

from tollgate_models.labels import keep_for_ever

WINDOW = 1000
"""Of so many answers; before there are as many the drift is 0. By chance alone it is about 0.02 then."""

_NAME = "tollgate_model_label_drift"
_HELP = "Distance of the labels of a model's last 1000 answers from those that it gave when it was judged (0 to 1)."


class Drift:
    """One per model instance."""

    def __init__(self, model: str, version: str, shares: Mapping[str, float]) -> None:
        """`shares`: of each label, when the model was judged."""
        family = triton.MetricFamily(name=_NAME, description=_HELP, kind=triton.MetricFamily.GAUGE)
        self._gauge = family.Metric(labels={"model": model, "version": version})
        keep_for_ever((family, self))
        self._shares = shares
        self._latest: deque[str] = deque()
        self._counts: Counter[str] = Counter()

    def note(self, labels: Iterable[str]) -> None:
        """What was answered, in order."""
        for label in labels:
            self._latest.append(label)
            self._counts[label] += 1
            if len(self._latest) > WINDOW:
                self._counts[self._latest.popleft()] -= 1
        if len(self._latest) == WINDOW:
            self._gauge.set(self._distance())

    def _distance(self) -> float:
        names = self._shares.keys() | self._counts.keys()
        return sum(abs(self._counts[name] / WINDOW - self._shares.get(name, 0)) for name in names) / 2
