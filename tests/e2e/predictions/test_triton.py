"""The writer in real processes of Triton: nothing is lost by a stop, and by a kill only what was not written yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ext_authz.predictions import files
from ext_authz.predictions.files import finish_abandoned, finished, lines_of
from tests.services import over, wait_for
from tests.triton import OwnTriton, own_triton

pytestmark = pytest.mark.alone

ROWS = 64
DECISION = "01900000-0000-7000-8000-000000000001"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnTriton]:
    with own_triton(tmp_path) as running:
        yield running


def ask(server: OwnTriton, client: httpx.Client, number: int, rows: int = ROWS) -> None:
    texts = (f"text {number}.{row} is good" for row in range(rows))
    server.infer(client, *texts, **{"x-decision-id": DECISION}).raise_for_status()


def written(server: OwnTriton) -> list[files.Line]:
    found = [line for file in finished(server.predictions) for line in lines_of(file)]
    assert None not in found
    return [line for line in found if line is not None]


def text_of(line: files.Line) -> Any:  # noqa: ANN401 - JSON
    return json.loads(bytes(line.inputs))["text"]


def test_a_stop_loses_no_row(server: OwnTriton) -> None:
    """20,480 rows from four callers at once, then SIGTERM."""
    requests = 320
    with server.client() as client, over(server.metrics) as monitor, ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda number: ask(server, client, number), range(requests)))
        metrics = monitor.get("/metrics").text
    server.child.stop()
    assert not list(server.predictions.glob("*.open"))
    lines = written(server)
    assert len(lines) == requests * ROWS
    assert len({line.id for line in lines}) == len(lines)
    assert {text_of(line) for line in lines} == {
        f"text {number}.{row} is good" for number in range(requests) for row in range(ROWS)
    }
    assert {str(line.decision_id) for line in lines} == {DECISION}
    dropped = [each for each in metrics.splitlines() if each.startswith("tollgate_predictions_dropped_total{")]
    assert [each.split()[-1] for each in dropped] == ["0"]


def test_a_kill_loses_only_what_was_not_written_yet(server: OwnTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ABANDONED", -1)
    with server.client() as client:
        ask(server, client, 1, rows=3)
        wait_for(lambda: any(path.stat().st_size for path in server.predictions.iterdir()))
        assert server.stubs()
        server.child.kill()
    finish_abandoned(server.predictions)
    assert [text_of(line) for line in written(server)] == [f"text 1.{row} is good" for row in range(3)]
