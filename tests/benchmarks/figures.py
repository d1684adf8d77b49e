"""What a benchmark has seen, as a table, and how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct


class Figure(Struct):
    """One line of the table."""

    what: str
    seen: float
    unit: str
    bound: float = 0.0
    """0: there is none."""

    @property
    def holds(self) -> bool:
        return not self.bound or self.seen <= self.bound


class Progress:
    """A bar on a terminal, a line per step elsewhere."""

    def __init__(self, steps: dict[str, float]) -> None:
        """What each is expected to weigh."""
        self._steps = steps
        self._total = sum(steps.values())
        self._before = 0.0
        self._terminal = sys.stderr.isatty()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self.at(name, 0)
        yield
        self._before += self._steps[name]
        took = f"{time.monotonic() - began:.1f} s"
        sys.stderr.write(
            f"{self._bar(self._before)}  {name}: {took}\033[K\n" if self._terminal else f"{name}: {took}\n"
        )

    def at(self, name: str, part: float) -> None:
        if self._terminal:
            sys.stderr.write(f"{self._bar(self._before + min(part, 1) * self._steps[name])}  {name}\033[K\r")

    def _bar(self, done: float) -> str:
        share = done / self._total
        return f"[{'#' * round(30 * share):-<30}] {share:4.0%}"


def show(title: str, figures: Sequence[Figure]) -> None:
    lines = [f"{title} | seen | bound |", "--- | --- | ---"]
    for each in figures:
        bound = f"{each.bound:.4g} {each.unit}" if each.bound else ""
        lines.append(f"{each.what} | {each.seen:.3g} {each.unit} | {bound}{'' if each.holds else ' **exceeded**'}")
    sys.stdout.write("\n".join(lines) + "\n")
