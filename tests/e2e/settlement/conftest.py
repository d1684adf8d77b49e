"""A cluster, or one server, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.e2e.settlement.cluster import running_cluster
from tests.services import RedisServer, running_redis


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: list[RedisServer]) -> list[RedisServer]:
    """Empty ones."""
    for node in cluster:
        with Redis.from_url(node.url) as client:
            client.flushall()
    return cluster


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be killed or filled."""
    with running_redis(tmp_path) as server:
        yield server
