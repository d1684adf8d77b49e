"""What ends on its own is started again, and not for ever. The server inside makes no difference here."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from tests.e2e.server.serving import Serving, launch, serving, unary
from tests.services import wait_for


def readyz(server: Serving) -> str:
    try:
        return server.get("/readyz").text
    except httpx.TransportError:
        return ""


def test_a_worker_that_dies_again_and_again_ends_all_in_good_order(tmp_path: Path) -> None:
    with serving(tmp_path, "grpcio", workers=2) as server, server.channel() as channel:
        survivor = unary(channel)(b"pid", timeout=5).decode()
        while server.process.poll() is None:
            for worker in server.workers():
                if str(worker.pid) != survivor:
                    worker.kill()
            time.sleep(0.05)
        assert server.process.wait() == 1
    assert "was killed by SIGKILL, and it was the end number 6 within 10 minutes" in server.log
    assert (tmp_path / f"stopped-{survivor}").exists()


def test_a_worker_that_cannot_start_again_does_not_end_the_others(tmp_path: Path) -> None:
    """The policy file was broken since. Whoever is there serves the policy in force."""
    with serving(tmp_path, "grpcio", workers=2, factory="build_wrong_later") as server, server.channel() as channel:
        survivor = unary(channel)(b"pid", timeout=5).decode()
        (victim,) = (worker for worker in server.workers() if str(worker.pid) != survivor)
        (tmp_path / "wrong").touch()
        victim.kill()
        wait_for(lambda: "nothing is right any more" in readyz(server))
        assert server.ready()
        assert server.call(b"answered") == b"answered"
        assert server.get("/livez").is_success


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, "grpcio", workers=2) as server:
        (victim, _) = server.workers()
        victim.suspend()
        wait_for(lambda: not server.get("/livez").is_success)
        wait_for(lambda: "a worker serves again" in server.log, 60)
        assert "a worker hangs: killed" in server.log
        assert victim not in server.workers()
        assert server.ready()


def test_bad_lines_to_the_supervisor_cost_a_log_line_each(tmp_path: Path) -> None:
    with serving(tmp_path, "grpcio") as server:
        assert server.call(b"babble") == b"babbled"
        wait_for(lambda: server.log.count("a message was not understood") >= 3)
        server.set_down('["redis"]')
        wait_for(lambda: server.get("/readyz").json()["dependencies"] == {"postgres": True, "redis": False})
        assert server.get("/livez").is_success


def test_a_background_task_that_fails_again_and_again_ends_all(tmp_path: Path) -> None:
    server = launch(tmp_path, "grpcio", background="failing")
    assert server.process.wait(40) == 1
    assert "failing failed: RuntimeError: the mirror broke, and it was the end number 6" in server.log


def test_a_background_task_that_fails_once_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path, "grpcio", background="failing_once") as server:
        wait_for(lambda: 'tollgate_restarts_total{what="failing_once"} 1.0' in server.get("/metrics").text)
        server.terminate()
        assert server.process.wait(30) == 0
