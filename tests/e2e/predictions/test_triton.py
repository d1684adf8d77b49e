"""The writer in real processes of Triton: nothing is lost by a stop, and by a kill only what was not written yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from devstack.stack.triton import triton_metrics
from ext_authz.predictions import files
from ext_authz.predictions.files import finish_abandoned, finished, lines_of
from ext_authz.render.endpoints import Pipe
from tests.services import over, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

ROWS = 64
HEADERS = {"x-authz-model": "sentiment", "x-authz-version": "*", "x-user-id": "alice", "x-model-variant": "-"}
HEADERS["x-decision-id"] = "01900000-0000-7000-8000-000000000001"


class Server:
    """Triton alone, as the stack starts it."""

    def __init__(self, stack: Stack) -> None:
        self.child: Child = stack.child("triton")
        self.directory = stack.state.part("predictions")
        self.metrics = triton_metrics(stack.state, "triton")
        pipe = stack.addresses.triton.http
        assert isinstance(pipe, Pipe)
        self._socket = pipe.path

    def client(self) -> httpx.Client:
        return over(self._socket)

    def ask(self, client: httpx.Client, number: int, rows: int = ROWS) -> None:
        data = [f"text {number}.{row} is good" for row in range(rows)]
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [rows, 1], "data": data}]}
        client.post("/v2/models/sentiment/infer", json=body, headers=HEADERS).raise_for_status()

    def written(self) -> list[files.Line]:
        found = [line for file in finished(self.directory) for line in lines_of(file)]
        assert None not in found
        return [line for line in found if line is not None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = load_stack_settings({"state_dir": tmp_path})
    state = StateDirectory(settings.state_dir)
    with state.locked():
        server = Server(Stack(settings, state))
        server.child.start()
        try:
            yield server
        finally:
            server.child.stop()


def text_of(line: files.Line) -> Any:  # noqa: ANN401 - JSON
    return json.loads(bytes(line.inputs))["text"]


def test_a_stop_loses_no_row(server: Server) -> None:
    """20,480 rows from four callers at once, then SIGTERM."""
    requests = 320
    with server.client() as client, over(server.metrics) as monitor, ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda number: server.ask(client, number), range(requests)))
        metrics = monitor.get("/metrics").text
    server.child.stop()
    assert not list(server.directory.glob("*.open"))
    lines = server.written()
    assert len(lines) == requests * ROWS
    assert len({line.id for line in lines}) == len(lines)
    assert {text_of(line) for line in lines} == {
        f"text {number}.{row} is good" for number in range(requests) for row in range(ROWS)
    }
    assert {str(line.decision_id) for line in lines} == {HEADERS["x-decision-id"]}
    dropped = [each for each in metrics.splitlines() if each.startswith("tollgate_predictions_dropped_total{")]
    assert [each.split()[-1] for each in dropped] == ["0"]


def test_a_kill_loses_only_what_was_not_written_yet(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ABANDONED", -1)
    with server.client() as client:
        server.ask(client, 1, rows=3)
        wait_for(lambda: any(path.stat().st_size for path in server.directory.iterdir()))
        stubs = psutil.Process(server.child.pid).children(recursive=True)
        server.child.kill()
    assert stubs
    finish_abandoned(server.directory)
    assert [text_of(line) for line in server.written()] == [f"text 1.{row} is good" for row in range(3)]
