"""Policies change, certificates are renewed and workers are killed while a real Envoy asks 500 times a second."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from msgspec import Struct

from tests.e2e.reload.world import Serving, serving, token
from tests.e2e.server.front import PacedCallers, counted, front_with_admin
from tests.postgres import running_postgres
from tests.services import running_redis

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

RATE = 500
TIMES = 20
IN_FORCE_WITHIN = 3.0
SERVES_WITHIN = 3.0
FEW_MEGABYTES = 16 << 20


class World(Struct):
    server: Serving
    directory: Path

    @property
    def request(self) -> bytes:
        path, length = "/v2/models/sentiment/infer", "content-length: 0\r\ncontent-type: application/json\r\n"
        return f"POST {path} HTTP/1.1\r\nhost: mesh\r\nauthorization: Bearer {token()}\r\n{length}\r\n".encode()

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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("generations")
    with (
        running_redis(directory) as redis,
        running_postgres() as postgres,
        serving(directory, redis.url, postgres.url, workers=3) as server,
    ):
        yield World(server, directory)


async def until(condition: Callable[[], bool], seconds: float = 30) -> float:
    """How long it took. The callers go on meanwhile."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < seconds, "not within the time"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


async def test_twenty_changes_of_the_policy_fail_no_check(world: World) -> None:
    """Also where Envoy does not ask again, as in Istio. Every worker has the new policy within three seconds."""
    server = world.server
    with front_with_admin(world.directory, [server.port]) as (port, _):
        async with PacedCallers(port, world.request, rate=RATE) as callers:
            await until(lambda: callers.answers["200"] > 5 * RATE)
            steady, before = p99([took for _, took in callers.seconds]), world.resident()
            took: list[float] = []
            for number in range(TIMES):
                was = server.status()["hash"]
                server.write(rate=900_000 + number)
                took.append(await until(lambda was=was: was not in server.status()["workers"]))  # type: ignore[misc]
            changing = p99([seconds for began, seconds in callers.seconds][5 * RATE :])
            await until(lambda: len(world.workers()) == 3)
    print(f"in force after {sorted(took)}, p99 {steady:.4f} s, while it changes {changing:.4f} s")  # noqa: T201
    assert not callers.failures
    assert set(callers.answers) == {"200"}
    assert max(took) < IN_FORCE_WITHIN
    assert world.resident() < before + FEW_MEGABYTES


async def test_twenty_killed_workers_fail_at_most_what_they_were_answering(world: World) -> None:
    """And with the retries of the rendered configuration not even that."""
    server = world.server
    with front_with_admin(world.directory, [server.port], retries=True) as (port, admin):
        async with PacedCallers(port, world.request, rate=RATE) as callers:
            took = [await kill_the_oldest(world) for _ in range(TIMES)]
        retried = counted(admin, "cluster.authorizers.upstream_rq_retry_success")
    print(f"serves again after {sorted(took)}, failed {callers.failures}, retried {retried}")  # noqa: T201
    assert not callers.failures
    assert max(took) < SERVES_WITHIN
    assert server.metric('tollgate_restarts_total{what="worker"}') >= TIMES


async def kill_the_oldest(world: World) -> float:
    """How long it took until all workers served again. It has served long enough to be no crash loop."""
    await until(lambda: len(world.workers()) == 3)
    victim = min(world.workers(), key=lambda worker: worker.create_time())
    await until(lambda: time.time() - victim.create_time() > 9)
    victim.kill()
    await until(lambda: victim.pid not in {worker.pid for worker in world.workers()})
    return await until(lambda: world.server.get("/readyz").json()["reasons"] == [] and len(world.workers()) == 3)
