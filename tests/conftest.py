"""Fixtures that more than one folder uses."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator

# Before gRPC is imported anywhere: its handlers of fork end the new process where other threads call meanwhile.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from xdist.remote import Producer  # type: ignore[import-untyped]

from tests import sharing
from tests.keycloak import RunningKeycloak, running_keycloak
from tests.postgres import running_postgres
from tests.services import RedisServer, running_redis
from tests.trust import trusting

# A busy machine is no finding; what must be quick is measured where that is said.
settings.register_profile("anywhere", settings(deadline=None))
settings.load_profile("anywhere")


@pytest.fixture(autouse=True, scope="session")
def _no_stack_of_somebody_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands look there for the stack that this user runs."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state-home"))


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Each `httpx.get` would read some hundred of them, which takes longer than its request to a server on loopback. So
    a test that waits for a server would take the processor from it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", trusting)
        yield


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    """A logger that is left disabled, or at another level, makes tests of other files fail that expect its lines."""
    before = _loggers()
    yield
    assert _loggers().items() >= before.items()


def _loggers() -> dict[str, tuple[int, bool]]:
    known = [("", logging.root), *logging.root.manager.loggerDict.items()]
    return {name: (logger.level, logger.disabled) for name, logger in known if isinstance(logger, logging.Logger)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a Keycloak waits for its start too."""
    for item in items:
        if item.get_closest_marker("keycloak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(400))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=sharing.place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> sharing.Units | None:
    """In place of xdist's own."""
    return sharing.Units(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeycloak]:
    """A real one, of all tests of this process; skips where it cannot be run."""
    with running_keycloak(tmp_path_factory.mktemp("keycloak")) as running:
        yield running


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the run; use `redis_url`, which empties it first."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    from redis import Redis

    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """One Postgres for the run; use `database_url`, which makes a database in it."""
    with running_postgres() as server:
        yield server.url


@pytest.fixture
def database_url(postgres_server: str) -> Iterator[str]:
    """An empty database of its own."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres_server.replace("/postgres?", f"/{name}?")
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
