"""One MLflow behind one door, for all tests here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.e2e.mlflow.world import PYTHON, World, running_world
from tests.services import running_redis


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[World]:
    """With a Redis of its own: its authorizer would keep revocations in that of tests which run meanwhile."""
    if not PYTHON.exists():
        pytest.skip("needs the environment of `make mlflow`")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database_url = postgres_server.replace("/postgres?", f"/{name}?")
    directory = tmp_path_factory.mktemp("mlflow")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_world(directory, redis.url, database_url) as running,
    ):
        yield running


@pytest.fixture(scope="package")
def trained(world: World) -> dict[str, Any]:
    """What alice made in the project forecast: ids of a run, its experiment and its model."""
    made: dict[str, Any] = world.does("alice", "train", "forecast/first", "forecast.echo")
    return dict(made["done"])
