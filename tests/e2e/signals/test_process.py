"""The process that people start, `tollgate console`, is told."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from redis import Redis

from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.web.bodies import PATIENCE
from tests.e2e.reload.world import policy, published_keys
from tests.services import free_port, wait_for
from tests.signals import SID, logout_token

TOKENS = "tokens: {issuer: http://127.0.0.1:8080/tollgate, audiences: [triton-gateway]}\n"


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def drop_by_drop(port: int, path: str) -> bytes:
    """What is answered to a body that comes one byte a second, until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(1)
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        answer, until = b"", time.monotonic() + 2 * PATIENCE
        while time.monotonic() < until:
            try:
                if not (more := connection.recv(65_536)):
                    return answer
                answer += more
            except TimeoutError:
                connection.sendall(b"x")
            except ConnectionResetError:
                return answer  # as it is closed while a byte is on the way
    raise AssertionError("still open")


@contextmanager
def console(directory: Path, database_url: str, redis_url: str) -> Iterator[tuple[str, str]]:
    """Its address, and that of its metrics; it writes `log`."""
    port, metrics = free_port(), free_port()
    with published_keys(directory) as jwks, (directory / "log").open("wb") as log:
        (directory / "policy.yaml").write_text(policy(jwks) + TOKENS)
        environ = {
            **os.environ,
            "TOLLGATE_POLICY": str(directory / "policy.yaml"),
            "TOLLGATE_DATABASE_URL": database_url,
            "TOLLGATE_REDIS_URL": redis_url,
            "TOLLGATE_CONSOLE_PORT": str(port),
            "TOLLGATE_CONSOLE_METRICS_PORT": str(metrics),
            "TOLLGATE_CONSOLE_CLIENT_SECRET": "secret",
            "TOLLGATE_CONSOLE_KEYS": base64.b64encode(bytes(32)).decode(),
        }
        process = subprocess.Popen([sys.executable, "-m", "ext_authz", "console"], stderr=log, env=environ)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/tollgate/healthz"), 60)
            yield f"http://127.0.0.1:{port}/tollgate", f"http://127.0.0.1:{metrics}"
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_a_logout_token_is_obeyed_by_the_console(tmp_path: Path, database_url: str, redis_url: str) -> None:
    asyncio.run(migrate(database_url))
    with Redis.from_url(redis_url) as redis:
        redis.xadd(redis_keys.events(0), {"waits": "for the usage worker"})
    with console(tmp_path, database_url, redis_url) as (origin, monitor):
        url, token = f"{origin}/signals/backchannel-logout", logout_token()
        form, address = {"logout_token": token}, {"X-Forwarded-For": "203.0.113.7"}
        assert httpx.post(url, data=form, headers=address).status_code == 200
        assert httpx.post(url, data=form, headers=address).status_code == 400
        for path in ("/tollgate/signals/events", "/tollgate/api/v1/grants"):
            assert drop_by_drop(httpx.URL(origin).port or 0, path).startswith(b"HTTP/1.1 408 ")
        filled = 'tollgate_ledger_filled_ratio{shard="0"} '
        wait_for(lambda: filled in httpx.get(f"{monitor}/metrics").text)
        said = httpx.get(f"{monitor}/metrics").text
        assert "ssf" not in httpx.get(f"{monitor}/readyz").json()["causes"]
    assert float(said.split(filled)[1].split()[0]) < 0.01, "one event of as many as there may be"
    assert 'tollgate_signals_total{kind="logout",result="obeyed"} 1.0' in said
    assert 'tollgate_signals_total{kind="logout",result="refused"} 1.0' in said
    with psycopg.connect(database_url) as connection:
        query = "SELECT value, actor, reason FROM revocations"
        assert connection.execute(query).fetchall() == [(SID, "issuer i0", "signal: logout")]
        addresses = connection.execute("SELECT DISTINCT via, address FROM audit_log").fetchall()
        assert addresses == [("signal", "203.0.113.7")]
    log_text = (tmp_path / "log").read_text()
    assert "signal obeyed" in log_text
    assert all(part not in log_text for part in token.split("."))
