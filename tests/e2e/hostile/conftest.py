"""One real Envoy, authorizer and model for all tests of the folder: alone, and as the gateway of a mesh."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.e2e.hostile.world import World, running_world
from tests.e2e.render.world import RENDERERS
from tests.services import running_redis


@pytest.fixture(scope="package", params=RENDERERS)
def running(
    request: pytest.FixtureRequest, postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """With a Redis of its own: others empty the shared one."""
    database = f"hostile_{request.param}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        # When files run one by one, it begins anew in each.
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    database_url = postgres_server.replace("/postgres?", f"/{database}?")
    directory = tmp_path_factory.mktemp("world")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_world(request.param, directory, redis.url, database_url) as world,
    ):
        yield world


@pytest.fixture
def world(running: World) -> World:
    """Nothing has reached the model yet; `world.port` is where callers connect."""
    running.upstream.reached.clear()
    return running
