"""One caller without any right sends 80 calls a second with names of 200 kB: nobody else notices, and nothing fills."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import psycopg
import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.db import redis_keys
from tests.e2e.failure.mover import moving
from tests.e2e.hostile.caller import Caller
from tests.e2e.hostile.world import World, running_world
from tests.e2e.reload.world import token
from tests.messages import ROW, model
from tests.postgres import running_postgres
from tests.services import running_redis, wait_for

pytestmark = pytest.mark.alone

RATE, WARM_SECONDS, SECONDS = 80, 4, 12
GOOD_RATE = 40
LARGE = 200_000
PATH = 50_000
"""Bytes of a path, of which Envoy takes 60 KiB with all other headers."""
FLAT = 1.1


class Place(Struct):
    """The running stack, and what may grow behind it."""

    world: World
    redis: Redis
    ledger: psycopg.Connection[tuple[Any, ...]]

    def resident(self) -> int:
        """Of the largest process of the worker."""
        (worker, *_) = psutil.Process(self.world.server.process.pid).children()
        return max(process.memory_info().rss for process in [worker, *worker.children(recursive=True)])

    def in_redis(self) -> int:
        info: Any = self.redis.info("memory")
        return int(info["used_memory"])

    def rows(self) -> tuple[int, int]:
        """Of the ledger: how many, and the bytes of the longest."""
        asked = "SELECT count(*), coalesce(max(length(usage_events::text)), 0) FROM usage_events"
        (found,) = self.ledger.execute(asked)
        return found[0], found[1]

    def drained(self) -> bool:
        return self.redis.xlen(redis_keys.events()) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("large")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_postgres() as postgres,
        running_world("envoy", directory, redis.url, postgres.url) as world,
        moving(redis.url, postgres.url),
        Redis.from_url(redis.url) as client,
        psycopg.connect(postgres.url, autocommit=True) as ledger,
    ):
        yield Place(world, client, ledger)


def paced(send: Callable[[int], int], rate: int, seconds: float) -> Counter[int]:
    """`send` so often a second, whatever the answers take; how often it returned what."""
    began, until = time.monotonic(), threading.Event()
    with ThreadPoolExecutor(16) as threads:
        calls = []
        for number in range(int(rate * seconds)):
            until.wait(max(0.0, began + number / rate - time.monotonic()))
            calls.append(threads.submit(send, number))
        return Counter(call.result() for call in calls)


def grpc_of(caller: Caller) -> Callable[[int], int]:
    return lambda number: caller.send(model(f"{number}".ljust(LARGE, "x").encode()) + ROW).grpc


def rest_of(caller: Caller) -> Callable[[int], int]:
    return lambda number: caller.rest.post(f"/v2/models/{number}{'x' * PATH}/infer", content=b"{}").status_code


def good_of(caller: Caller) -> Callable[[int], int]:
    """Over gRPC and REST in turn; 0 and 200 are good."""

    def send(number: int) -> int:
        if number % 2:
            return caller.send(model(b"plain") + ROW).grpc
        return caller.rest.post("/v2/models/plain/infer", content=b"{}").status_code

    return send


@pytest.mark.parametrize("kind", [grpc_of, rest_of], ids=["model_name", "path"])
def test_large_names_affect_no_other_caller_and_no_cache(
    place: Place, kind: Callable[[Caller], Callable[[int], int]]
) -> None:
    port = place.world.port
    bad, good = Caller(port, token(sub="bad", resource_access={}, realm_access={"roles": []})), Caller(port, token())
    paced(kind(bad), RATE, WARM_SECONDS)
    paced(good_of(good), GOOD_RATE, 1)
    wait_for(place.drained)
    resident, in_redis, (rows, _) = place.resident(), place.in_redis(), place.rows()

    with ThreadPoolExecutor(1) as beside:
        flood = beside.submit(paced, kind(bad), RATE, SECONDS)
        answers = paced(good_of(good), GOOD_RATE, SECONDS)
        refusals = flood.result()
    bad.close()
    good.close()

    assert answers == {0: GOOD_RATE * SECONDS / 2, 200: GOOD_RATE * SECONDS / 2}
    assert refusals.keys() <= {3, 400}, "a name that is none"
    assert place.resident() < FLAT * resident
    wait_for(place.drained)
    wait_for(lambda: place.in_redis() < FLAT * in_redis)
    more, longest = place.rows()
    assert more - rows <= (RATE + GOOD_RATE) * SECONDS
    assert longest < 4000
