"""One real Envoy, authorizer and model for all tests of the folder."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.e2e.hostile.world import FRONTS, World, running_world
from tests.services import running_redis


@pytest.fixture(scope="session")
def running(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a Redis of its own: others empty the shared one."""
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE hostile"))
    database_url = postgres_server.replace("/postgres?", "/hostile?")
    directory = tmp_path_factory.mktemp("world")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_world(directory, redis.url, database_url) as world,
    ):
        yield world


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    """Envoy by itself, and as the gateway of a mesh."""
    return str(request.param)


@pytest.fixture
def world(running: World, front: str) -> World:
    """Nothing has reached the model yet; `world.port` is where callers connect."""
    running.upstream.reached.clear()
    running.front = front
    return running
