"""From start to end: what `serve` does when it starts, drains, loses a worker, or is killed."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from tests.e2e.server.serving import Serving, launch, serving, unary
from tests.services import wait_for

pytestmark = pytest.mark.parametrize("kind", ["h2corn", "grpcio"])


def unready(server: Serving) -> bool:
    return server.get("/readyz").status_code == 503


class TestStart:
    def refusal(self, server: Serving) -> str:
        assert server.process.wait(30) == 2
        return server.log

    def test_a_long_path_for_temporary_files(self, tmp_path: Path, kind: str) -> None:
        """No Unix socket, whose path may have 107 bytes, lies below it."""
        long = tmp_path / ("t" * 130)
        long.mkdir()
        server = launch(tmp_path, kind, scratch=long)
        try:
            wait_for(server.ready)
            assert server.call(b"hello") == b"hello"
        finally:
            server.terminate()
            assert server.process.wait(30) == 0, server.log

    def test_port_taken(self, tmp_path: Path, kind: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            sentence = self.refusal(launch(tmp_path, kind, listen_port=port))
        assert sentence.startswith(f"TOLLGATE_LISTEN_PORT: cannot listen on 127.0.0.1:{port} (Address already in use)")
        assert sentence.count("\n") == 1

    def test_port_taken_by_another_serve(self, tmp_path: Path, kind: str) -> None:
        """SO_REUSEPORT would let two instances share it, and half the checks get the wrong policy."""
        other = tmp_path / "other"
        other.mkdir()
        with serving(tmp_path, kind) as first:
            sentence = self.refusal(launch(other, kind, listen_port=first.port))
        assert sentence.startswith("TOLLGATE_LISTEN_PORT: ")

    def test_admin_port_taken(self, tmp_path: Path, kind: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            sentence = self.refusal(launch(tmp_path, kind, admin_port=taken.getsockname()[1]))
        assert sentence.startswith("TOLLGATE_ADMIN_PORT: ")

    def test_address_that_does_not_resolve(self, tmp_path: Path, kind: str) -> None:
        sentence = self.refusal(launch(tmp_path, kind, listen_host="no.such.host.invalid"))
        assert sentence == "TOLLGATE_LISTEN_HOST: 'no.such.host.invalid' is no address and no name that resolves\n"

    def test_a_worker_that_reports_an_error(self, tmp_path: Path, kind: str) -> None:
        sentence = self.refusal(launch(tmp_path, kind, factory="build_wrong"))
        assert sentence.splitlines()[-1] == "policy.yaml: rules[0]: nothing is right"

    def test_is_not_ready_before_each_dependency_has_answered(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "down.json").write_text('["redis"]')
        server = launch(tmp_path, kind)
        try:
            wait_for(lambda: "waits for redis" in _readyz(server))
            assert server.call(b"answered all the same") == b"answered all the same"
            server.set_down("[]")
            wait_for(server.ready)
        finally:
            server.terminate()
            assert server.process.wait(30) == 0


def _readyz(server: Serving) -> str:
    try:
        return server.get("/readyz").text
    except httpx.TransportError:
        return ""


class TestWorkers:
    def test_one_that_dies_is_replaced_and_the_others_serve_on(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind, workers=2) as server, server.channel() as channel:
            survivor = unary(channel)(b"pid", timeout=5).decode()
            slow = unary(channel).future(b"sleep 1", timeout=10)
            wait_for((tmp_path / "sleeping").exists)
            (victim,) = (worker for worker in server.workers() if str(worker.pid) != survivor)
            victim.kill()
            assert slow.result() == b"slept"
            wait_for(lambda: "a worker serves again" in server.log)
            assert survivor in {str(worker.pid) for worker in server.workers()}
            wait_for(lambda: server.get("/readyz").json()["reasons"] == [])
            assert len({server.call(b"pid") for _ in range(64)}) == 2
            assert server.get("/livez").is_success
            assert 'tollgate_restarts_total{what="worker"} 1.0' in server.get("/metrics").text
        assert f"(process {victim.pid}) was killed by SIGKILL" in server.log

    def test_do_not_outlive_a_killed_supervisor(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind, workers=2) as server:
            workers = server.workers()
            server.process.kill()
            _, alive = psutil.wait_procs(workers, timeout=20)
            assert not alive


class TestDrain:
    def test_answers_what_is_in_flight(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind) as server, server.channel() as one, server.channel() as two:
            slow = [unary(channel).future(b"sleep 2", timeout=20) for channel in (one, two) for _ in range(150)]
            wait_for((tmp_path / "sleeping").exists)
            (worker,) = server.workers()
            server.terminate()
            assert {call.result() for call in slow} == {b"slept"}
            assert server.process.wait(30) == 0
        assert (tmp_path / f"stopped-{worker.pid}").exists()

    def test_is_not_ready_first_and_serves_on(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind, drain_delay=30) as server:
            server.terminate()
            wait_for(lambda: unready(server))
            assert server.get("/readyz").json() == {"ready": False, "reasons": ["draining"]}
            assert server.get("/livez").status_code == 200
            assert server.call(b"still served") == b"still served"

    def test_ends_at_the_timeout(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind, drain_timeout=1) as server, server.channel() as channel:
            endless = unary(channel).future(b"sleep 600", timeout=600)
            wait_for((tmp_path / "sleeping").exists)
            server.terminate()
            assert server.process.wait(30) == 0
            with pytest.raises(grpc.RpcError):
                endless.result()

    def test_a_second_signal_ends_it_at_once(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind, drain_delay=60, drain_timeout=60) as server:
            workers = server.workers()
            server.terminate()
            wait_for(lambda: unready(server))
            begun = time.monotonic()
            server.terminate()
            assert server.process.wait(30) == 0
            assert time.monotonic() - begun < 10
            assert not psutil.wait_procs(workers, timeout=1)[1]

    def test_leaves_nothing_behind(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind) as server:
            assert list(server.scratch.iterdir())
            server.terminate()
            assert server.process.wait(30) == 0
            assert not list(server.scratch.iterdir())


class TestBackground:
    def test_runs_until_the_end(self, tmp_path: Path, kind: str) -> None:
        with serving(tmp_path, kind, background="patient") as server:
            server.terminate()
            assert server.process.wait(30) == 0


def test_logs_are_json_lines(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind) as server:
        with pytest.raises(grpc.RpcError):
            server.call(b"raise")
        server.terminate()
        assert server.process.wait(30) == 0
    events = [json.loads(line) for line in server.log.splitlines()]
    assert {"serving", "a method failed", "draining"} <= {event["event"] for event in events}
    assert all(re.fullmatch(r"[\d-]+T[\d:.]+\+00:00", event["time"]) for event in events)
