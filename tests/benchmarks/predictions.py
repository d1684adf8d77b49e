"""What the prediction log costs a model: two Tritons, of which one writes it. `python -m tests.benchmarks.predictions`

Calls go straight to Triton's sockets, over REST, to `sentiment` 1, one row each; nobody takes the files meanwhile. The
two take short turns, and which is first changes, so that whatever else the machine does hits both alike. Load and
Tritons share its processors; the processor time is Triton's, with the model's process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from devstack.demo.participants import rest_body
from devstack.stack.addresses import MAIN
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from tests.benchmarks.load import require_h2load, spent

CALLS, TURNS = 1000, 20
CALLERS = (1, 16)
MODEL = "sentiment"
_DECISION = "01900000-0000-7000-8000-000000000001"
_HEADERS = {"x-authz-model": MODEL, "x-authz-version": "*", "x-decision-id": _DECISION, "x-user-id": "somebody"}
_WITH, _WITHOUT = "written", "none"


class Sample(NamedTuple):
    """Of one run: calls per second, milliseconds, and processor time in microseconds per call."""

    rate: float
    p50: float
    p99: float
    cpu_us: float


class Server(NamedTuple):
    """A Triton alone, as the stack starts it."""

    socket: Path
    process: psutil.Process
    predictions: Path


def main() -> None:
    """A row for each number of callers."""
    options = argparse.ArgumentParser(description="What the prediction log costs.")
    options.add_argument("--calls", type=int, default=CALLS, help="of each run (default: %(default)s)")
    options.add_argument("--turns", type=int, default=TURNS, help="runs of each (default: %(default)s)")
    options.add_argument("--callers", type=int, nargs="*", default=CALLERS, help="at a time (default: %(default)s)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        files = Path(directory)
        with _triton(files / "a", is_logging=True) as logged, _triton(files / "b", is_logging=False) as plain:
            servers = {_WITH: logged, _WITHOUT: plain}
            found = {callers: _turns(servers, files, callers, given.calls, given.turns) for callers in given.callers}
        rows = sum(int(file.stem.rpartition("@")[2]) for file in logged.predictions.iterdir())
    expected = (given.calls * given.turns + given.calls) * len(given.callers)
    assert rows == expected, f"{rows} of {expected} rows are in the files"
    sys.stdout.write("\n".join(_table(found)) + "\n")


@contextmanager
def _triton(directory: Path, *, is_logging: bool) -> Iterator[Server]:
    settings = load_stack_settings({"state_dir": directory})
    state = StateDirectory(settings.state_dir)
    with state.locked():
        server = Stack(settings, state).child(MAIN)
        if not is_logging:
            server.environment = {
                name: value for name, value in server.environment.items() if name != "TOLLGATE_PREDICTIONS"
            }
        server.start()
        try:
            yield Server(state.plain_part(MAIN) / "http", psutil.Process(server.pid), state.part("predictions"))
        finally:
            server.stop()


def _turns(servers: dict[str, Server], files: Path, callers: int, calls: int, turns: int) -> dict[str, Sample]:
    """Medians, after one turn that does not count."""
    runs: dict[str, list[Sample]] = {name: [] for name in servers}
    for turn in range(turns + 1):
        for name in sorted(servers, reverse=bool(turn % 2)):
            runs[name].append(_run(servers[name], files, callers, calls))
    sys.stderr.write(f"{callers} at a time: {runs}\n")
    return {name: Sample(*map(statistics.median, zip(*each[1:], strict=True))) for name, each in runs.items()}


def _run(server: Server, files: Path, callers: int, calls: int) -> Sample:
    log, body = files / "calls.log", files / "body"
    log.unlink(missing_ok=True)
    body.write_text(json.dumps(rest_body(MODEL)))
    command = [require_h2load(), "--h1", "-n", str(calls), "-c", str(callers), "-m", "1", f"--log-file={log}"]
    command += [part for name, value in _HEADERS.items() for part in ("-H", f"{name}: {value}")]
    command += ["-d", str(body), "-B", f"unix:{server.socket}", f"http://localhost/v2/models/{MODEL}/infer"]
    began, before = time.monotonic(), spent(server.process)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, after = time.monotonic() - began, spent(server.process)
    assert f"{calls} succeeded" in output, output
    took = sorted(int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines())
    cpu = (after.cpu - before.cpu) / calls * 1e6
    return Sample(calls / seconds, statistics.median(took), took[int(calls * 0.99)], cpu)


def _table(found: dict[int, dict[str, Sample]]) -> Iterator[str]:
    yield "| callers | the log | calls/s | p50 | p99 | processor time per call |"
    yield "|---|---|---|---|---|---|"
    for callers, ways in found.items():
        for name in (_WITHOUT, _WITH):
            each = ways[name]
            times = f"{each.p50:.2f} ms | {each.p99:.2f} ms | {each.cpu_us:.0f} us"
            yield f"| {callers} | {name} | {each.rate:,.0f} | {times} |"
        ratios = [with_log / without for with_log, without in zip(ways[_WITH], ways[_WITHOUT], strict=True)]
        yield f"| {callers} | ratio | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


if __name__ == "__main__":
    main()
