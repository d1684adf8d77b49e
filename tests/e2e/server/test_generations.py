"""Policies change, certificates are renewed and workers are killed while a real Envoy asks without a pause."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from msgspec import Struct

from tests.e2e.reload.world import Serving, serving, token
from tests.e2e.server.certificates import Authority
from tests.e2e.server.front import PacedCallers, counted, front_with_admin
from tests.postgres import running_postgres
from tests.services import running_redis

pytestmark = pytest.mark.alone

RATE = 100
"""Checks a second. A worker sheds what the machine cannot do, with 503: this is far below what a slow one can."""
TIMES = 20
WARM = 5 * RATE
IN_FORCE_WITHIN = 10.0
"""Seconds, on any machine; it is printed: less than 3 where nothing else runs."""
SERVES_WITHIN = 10.0
"""As above; less than 2."""
FEW_MEGABYTES = 16 << 20


class World(Struct):
    server: Serving
    port: int
    """Of Envoy."""
    admin: int

    @property
    def request(self) -> bytes:
        path, length = "/v2/models/sentiment/infer", "content-length: 2\r\ncontent-type: application/json\r\n"
        return f"POST {path} HTTP/1.1\r\nhost: mesh\r\nauthorization: Bearer {token()}\r\n{length}\r\n{{}}".encode()

    def workers(self) -> list[psutil.Process]:
        """Those that serve, start or drain; the policy's reader is one of them."""
        return [child for child in psutil.Process(self.server.process.pid).children() if _is_worker(child)]

    def resident(self) -> int:
        return max(worker.memory_info().rss for worker in self.workers())


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "ext_authz.server" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """With as many workers as the test asks for."""
    with (
        running_redis(tmp_path) as redis,
        running_postgres() as postgres,
        serving(tmp_path, redis.url, postgres.url, workers=request.param) as server,
        front_with_admin(tmp_path, [server.port], retries=True) as (port, admin),
    ):
        yield World(server, port, admin)


async def until(condition: Callable[[], bool], seconds: float = 30) -> float:
    """How long it took. The callers go on meanwhile."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < seconds, "not within the time"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


@pytest.mark.parametrize("world", [2], indirect=True)
async def test_twenty_changes_of_the_policy_fail_no_check(world: World) -> None:
    """Every worker has the new policy soon after the change of the file, and the old ones are gone."""
    async with PacedCallers(world.port, world.request, rate=RATE) as callers:
        await until(lambda: callers.answers["200"] > WARM)
        before, took = world.resident(), [await change(world, number) for number in range(TIMES)]
        await until(lambda: len(world.workers()) == 2)
    retried = counted(world.admin, "cluster.authorizers.upstream_rq_retry_success")
    seconds = [seconds for _, seconds in callers.seconds]
    print(f"in force after {sorted(took)}, {callers.answers}, asked again {retried}")  # noqa: T201
    print(f"p99 before {p99(seconds[:WARM])}, while it changes {p99(seconds[WARM:])}")  # noqa: T201
    print(f"memory of a worker {before >> 20} MB, then {world.resident() >> 20} MB")  # noqa: T201
    assert set(callers.answers) == {"200"}
    assert max(took) < IN_FORCE_WITHIN
    assert world.resident() < before + FEW_MEGABYTES


async def change(world: World, number: int) -> float:
    """How long it took until no worker had the policy before."""
    before = world.server.status()["hash"]
    world.server.write(rate=900_000 + number)
    return await until(lambda: before not in world.server.status()["workers"])


def test_twenty_renewed_certificates_fail_no_check(tmp_path: Path) -> None:
    """Envoy asks over TLS; new connections soon see the new certificate, old ones end in order."""
    authority, renewal = Authority(tmp_path, "ca"), Renewal(tmp_path)
    renewal.install(authority, 0)
    cert, key = renewal.certificate, renewal.key
    with (
        running_redis(tmp_path) as redis,
        running_postgres() as postgres,
        serving(tmp_path, redis.url, postgres.url, workers=2, tls_cert=cert, tls_key=key) as server,
        front_with_admin(tmp_path, [server.port], retries=True, authority=authority.certificate) as (port, admin),
    ):
        asyncio.run(renew_under_load(World(server, port, admin), authority, renewal))


async def renew_under_load(world: World, authority: Authority, renewal: Renewal) -> None:
    async with PacedCallers(world.port, world.request, rate=RATE) as callers:
        await until(lambda: callers.answers["200"] > WARM)
        took = [await renewal.renew(authority, number, world.server.port) for number in range(1, TIMES + 1)]
        await until(lambda: len(world.workers()) == 2)
    print(f"in force after {sorted(took)}, {callers.answers}")  # noqa: T201
    assert set(callers.answers) == {"200"}
    assert max(took) < IN_FORCE_WITHIN


class Renewal:
    """Two files that are replaced one after the other, as by a mounted Secret or cert-manager's agent."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key = directory / "served.crt", directory / "served.key"

    def install(self, authority: Authority, number: int) -> None:
        for issued, served in zip(authority.issue(f"leaf-{number}"), (self.certificate, self.key), strict=True):
            new = served.with_suffix(".new")
            shutil.copy(issued, new)
            new.replace(served)

    async def renew(self, authority: Authority, number: int, port: int) -> float:
        """How long it took until several new connections in a row saw the new certificate."""
        self.install(authority, number)
        expected = self.certificate.read_text().strip()
        return await until(lambda: all(_served_by(port) == expected for _ in range(6)))


def _served_by(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10).strip()


@pytest.mark.parametrize("world", [3], indirect=True)
async def test_twenty_killed_workers_fail_no_check(world: World) -> None:
    """What was in flight in them is asked again, of others, who serve on; and another takes the place of each."""
    async with PacedCallers(world.port, world.request, rate=RATE) as callers:
        took = [await kill_the_oldest(world) for _ in range(TIMES)]
    retried = counted(world.admin, "cluster.authorizers.upstream_rq_retry_success")
    print(f"serves again after {sorted(took)}, {callers.answers}, asked again {retried}")  # noqa: T201
    assert set(callers.answers) == {"200"}
    assert max(took) < SERVES_WITHIN
    assert world.server.metric('tollgate_restarts_total{what="worker"}') >= TIMES


async def kill_the_oldest(world: World) -> float:
    """How long it took until all workers served again. It has served long enough to be no crash loop."""
    await until(lambda: len(world.workers()) == 3)
    victim = min(world.workers(), key=lambda worker: worker.create_time())
    await until(lambda: time.time() - victim.create_time() > 8)
    victim.kill()
    await until(lambda: victim.pid not in {worker.pid for worker in world.workers()})
    return await until(lambda: world.server.get("/readyz").json()["reasons"] == [] and len(world.workers()) == 3)
