"""One Redis, one database for a whole file of tests here: a server takes seconds to start, a policy one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from redis import Redis

from tests.services import RedisServer


@pytest.fixture(scope="module")
def stores(redis_server: RedisServer, postgres_server: str) -> Iterator[tuple[str, str]]:
    """An empty Redis and an empty database."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield redis_server.url, postgres_server.replace("/postgres?", f"/{name}?")
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
