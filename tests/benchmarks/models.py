"""`make bench-models`: what each model costs, and what the door in front of it: two tables in Markdown.

Three ways to each model, over both protocols, with one caller and with sixteen: straight to Triton's sockets; through
an Envoy of the same configuration that asks an authorizer which allows everything (`grpcio` in one process, an answer
of constant bytes); and through the Envoy of the stack, with Tollgate in one process, on the demo's policy with limits
that nobody reaches. The ways take turns, and which is first changes, so that whatever else the machine does hits all of
them alike. Everything shares the machine's processors, the load too; the last line says what that costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from devstack.demo.participants import EXAMPLES, Provider
from devstack.stack.addresses import MAIN
from devstack.stack.stack import Stack, running_stack
from tests.benchmarks.doors import (
    ALWAYS,
    GRPC,
    REST,
    TOLLGATE,
    TRITON,
    WAYS,
    Cell,
    Doors,
    Sample,
    open_doors,
    operator_of,
    settle,
    unlimited,
)
from tests.benchmarks.figures import Progress
from tests.benchmarks.load import require_h2load
from tests.services import wait_for

CALLERS = (1, 16)
TURNS, SECONDS = 4, 1.5
LIMIT_P50, LIMIT_RATE = 1.5, 0.7
"""What is aimed at: what Tollgate adds to p50, to what the other authorizer adds; and its calls per second."""


class Loaded(NamedTuple):
    """Seconds that Triton takes to load all versions of a model, and what its processes hold, in MB."""

    versions: int
    seconds: float
    megabytes: float


def main() -> None:
    """The frameworks are those that `make models` made."""
    options = argparse.ArgumentParser(description="What each model costs, and the door in front of it.")
    options.add_argument("--seconds", type=float, default=SECONDS, help="of each run (default: %(default)s)")
    options.add_argument("--turns", type=int, default=TURNS, help="runs of each cell (default: %(default)s)")
    options.add_argument("--models", nargs="*", help="default: all that are built")
    given = options.parse_args()
    require_h2load()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        files = Path(directory)
        stack = running.enter_context(running_stack(files / "stack", policy=unlimited(files)))
        models = given.models or [model for model in EXAMPLES if (_models(stack) / model).exists()]
        doors = running.enter_context(open_doors(stack, files))
        cells = [Cell(model, protocol, each) for model in models for protocol in (REST, GRPC) for each in CALLERS]
        progress = Progress({"loading": 3.0 * len(models), **{_title(cell): 1.0 for cell in cells}})
        with progress.step("loading"):
            loaded = {model: _load(stack, model) for model in models}
        found = {cell: _measure(doors, cell, given.turns, given.seconds, progress) for cell in cells}
    sys.stdout.write("\n".join((*_of_models(loaded), "", *_of_door(found), "", *_summary(found))) + "\n")


def _title(cell: Cell) -> str:
    return f"{cell.model}, {cell.protocol}, {cell.callers} at a time"


def _measure(doors: Doors, cell: Cell, turns: int, seconds: float, progress: Progress) -> dict[str, Sample]:
    runs: dict[str, list[Sample]] = {way: [] for way in WAYS}
    stack = doors.stack
    token = Provider(stack.addresses.issuer, stack.identity_admin_token).login("alice").text
    with progress.step(_title(cell)):
        for turn in range(turns):
            for number in range(len(WAYS)):
                way = WAYS[(turn + number) % len(WAYS)]
                runs[way].append(doors.run(way, cell, token, seconds))
                settle(stack)
                progress.at(_title(cell), (turn + number / len(WAYS)) / turns)
    return {way: Sample(*map(statistics.median, zip(*each, strict=True))) for way, each in runs.items()}


def _models(stack: Stack) -> Path:
    return stack.state.plain_part(MAIN) / "models"


def _load(stack: Stack, model: str) -> Loaded:
    """Unload it, wait until none of its processes is left, and load it again."""
    with operator_of(stack, "http") as triton:
        triton.post(f"/v2/repository/models/{model}/unload").raise_for_status()
        wait_for(lambda: not _processes(stack, model), 60)
        began = time.monotonic()
        triton.post(f"/v2/repository/models/{model}/load").raise_for_status()
        seconds = time.monotonic() - began
    processes = _processes(stack, model)
    family = {each.pid: each for one in processes for each in (one, *one.children(recursive=True))}
    return Loaded(len(processes), seconds, sum(each.memory_info().rss for each in family.values()) / 1e6)


def _processes(stack: Stack, model: str) -> list[psutil.Process]:
    """One of each version."""
    everything = psutil.Process(stack.child(MAIN).pid).children(recursive=True)
    return [each for each in everything if any(f"/{model}/" in part for part in _command(each)[:3])]


def _command(process: psutil.Process) -> list[str]:
    """Empty: it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _of_models(loaded: dict[str, Loaded]) -> Iterator[str]:
    yield "| model | versions | load, all versions | RSS, all versions |"
    yield "|---|---|---|---|"
    for model, each in loaded.items():
        yield f"| `{model}` | {each.versions} | {each.seconds:.1f} s | {each.megabytes:.0f} MB |"


def _of_door(found: dict[Cell, dict[str, Sample]]) -> Iterator[str]:
    """p50 / p99 in milliseconds, and calls per second."""
    titles = (f"{way} p50 / p99 ms | calls/s" for way in WAYS)
    yield f"| model | callers | {' | '.join(titles)} | the door adds to p50 | calls/s, of always allow |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for cell, ways in found.items():
        seen = " | ".join(f"{each.p50:.2f} / {each.p99:.2f} | {each.rate:,.0f}" for each in ways.values())
        added, ratio = _added(ways, TOLLGATE), _ratio(ways)
        yield (
            f"| `{cell.model}`, {cell.protocol} | {cell.callers} | {seen} | {added:.2f} ms, {ratio:.2f} x "
            f"| {_rate(ways):.0%} |"
        )


def _added(ways: dict[str, Sample], way: str) -> float:
    return ways[way].p50 - ways[TRITON].p50


def _ratio(ways: dict[str, Sample]) -> float:
    """What Tollgate adds to what the other authorizer adds."""
    return _added(ways, TOLLGATE) / _added(ways, ALWAYS)


def _rate(ways: dict[str, Sample]) -> float:
    return ways[TOLLGATE].rate / ways[ALWAYS].rate


def _summary(found: dict[Cell, dict[str, Sample]]) -> Iterator[str]:
    """Of all models: the median."""
    yield "| what the door costs, median of the models | seen | aim |"
    yield "|---|---|---|"
    for protocol in (REST, GRPC):
        one, many = ([ways for cell, ways in found.items() if cell[1:] == (protocol, each)] for each in CALLERS)
        tollgate, always = (_middle(one, lambda ways, way=way: _added(ways, way)) for way in (TOLLGATE, ALWAYS))  # type: ignore[misc]
        what = f"added to p50, {protocol}: {tollgate:.2f} ms; by always allow: {always:.2f} ms"
        yield f"| {what} | {_middle(one, _ratio):.2f} x | <= {LIMIT_P50} x |"
        what = f"calls/s of sixteen callers, {protocol}, of always allow"
        yield f"| {what} | {_middle(many, _rate):.0%} | >= {LIMIT_RATE:.0%} |"
    load = [sample.load_us for ways in found.values() for sample in ways.values()]
    yield f"| processor time of the load, per call | {statistics.median(load):.0f} us | - |"


def _middle(rows: Sequence[dict[str, Sample]], of: Callable[[dict[str, Sample]], float]) -> float:
    return statistics.median(map(of, rows))


if __name__ == "__main__":
    main()
