"""The cluster of three masters, and the service on it with one shard and with three."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests import tokens
from tests.e2e.cluster.world import World, world_of
from tests.e2e.settlement.conftest import cluster, nodes
from tests.http_server import serving_files
from tests.services import RedisServer

__all__ = ["cluster", "nodes"]


@pytest.fixture(scope="package")
def jwks_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("jwks")
    (directory / "certs").write_bytes(tokens.jwks(tokens.RSA))
    with serving_files(directory) as port:
        yield f"http://127.0.0.1:{port}/certs"


@pytest.fixture(autouse=True)
def _shared_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serve` and its workers have in common."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
async def world(
    request: pytest.FixtureRequest,
    nodes: list[RedisServer],
    database_url: str,
    jwks_url: str,
    tmp_path: Path,
) -> AsyncIterator[World]:
    async with world_of(nodes, database_url, jwks_url, tmp_path, shards=request.param) as world:
        yield world
