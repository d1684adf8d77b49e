"""Two workers on one port, at rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.server.serving import Serving, serving


@pytest.fixture(scope="module", params=["h2corn", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    with serving(directory, request.param, workers=2) as running:
        yield running


def test_share_one_port(server: Serving) -> None:
    pids = {str(worker.pid) for worker in server.workers()}
    assert len(pids) == 2
    # Each call is a connection of its own; the kernel spreads them.
    assert {server.call(b"pid").decode() for _ in range(64)} == pids


def counted(server: Serving) -> float:
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tollgate_checks_total{"))


def test_metrics_are_added_up(server: Serving) -> None:
    before = counted(server)
    for _ in range(20):
        server.call(b"count me")
    assert counted(server) == before + 20
    assert 'tollgate_dependency_up{dependency="redis"} 1.0' in server.get("/metrics").text


def test_are_not_reached_by_the_terminals_interrupt(server: Serving) -> None:
    """Ctrl-C goes to the whole process group: no worker must be in it."""
    assert os.getpgid(server.process.pid) not in {os.getpgid(worker.pid) for worker in server.workers()}


def test_no_port_but_the_two_is_opened(server: Serving) -> None:
    """Envoy's admin interface can stop the process: it is a Unix socket, in a directory that only we can read."""
    processes = [psutil.Process(server.process.pid), *server.workers()]
    listening = {c.laddr.port for p in processes for c in p.net_connections("tcp") if c.status == "LISTEN"}
    assert listening == {server.port, server.admin_port}
