"""The way to Postgres: connections that notice a dead peer, and a deadline that holds even when Postgres hangs.

A pooler in transaction mode (PgBouncer) may stand in between: from one transaction to the next a connection may lead to
another session of Postgres. So nothing here or elsewhere leaves state in a session: no prepared statement, no SET that
outlives its transaction, no session lock, no temporary table, no cursor outside a transaction. Every open transaction
takes one of the pooler's few connections: keep it short, page through large tables by their key. LISTEN has a
connection of its own (`listen.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ext_authz.db.postgres_causes import unavailable
from ext_authz.errors import Unavailable

# libpq sends it when it connects, over the head of what database or role say: psycopg reads times in no other style.
os.environ["PGDATESTYLE"] = "ISO"

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]
T = TypeVar("T")

_CONNECTION: dict[str, Any] = {
    "application_name": "tollgate",
    "client_encoding": "UTF8",  # whatever the database, the role or PGCLIENTENCODING say
    # A statement prepared in one session is unknown, or known as another one, in the next.
    "prepare_threshold": None,
    "connect_timeout": 5,
    # A peer that vanished without a word is noticed after about 10 seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class _Remembering(AsyncConnection[TupleRow]):
    """Knows why the last try to connect failed: who waits at the pool only learns that the wait was too long."""

    last_failure: psycopg.Error | None = None

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Self:  # noqa: ANN401 - psycopg's
        try:
            connection = await super().connect(conninfo, **options)
        except psycopg.Error as failure:
            cls.last_failure = failure
            raise
        cls.last_failure = None
        return connection


def make_pool(url: str, *, timeout: float, size: int = 4) -> Pool:
    """A pool, not yet open: use it with `async with`. It opens while Postgres is still down.

    `timeout`: as for `within`. The wait for a connection is a little shorter, so that its cause is known. A connection
    is tried before it is handed out, so that a restart of Postgres costs no request.
    """
    return AsyncConnectionPool(
        url,
        connection_class=type("Connection", (_Remembering,), {}),
        kwargs={**_CONNECTION, "autocommit": True},
        open=False,
        min_size=1,
        max_size=size,
        timeout=timeout * 0.9,
        # Its back-off doubles up to minutes, and nobody would be served for so long after the end of an outage. With
        # this whoever waits makes it try, twice a second.
        reconnect_timeout=0.5,
        check=AsyncConnectionPool.check_connection,
    )


@asynccontextmanager
async def pooled(pool: Pool) -> AsyncGenerator[Connection]:
    """As `pool.connection()`, and says why there is none."""
    try:
        async with pool.connection() as connection:
            yield connection
    except PoolTimeout as late:
        kind: type[_Remembering] = pool.connection_class  # type: ignore[assignment]
        raise kind.last_failure or late from None


async def connect(url: str) -> Connection:
    """One connection of one's own, in autocommit: for what must not starve the pool."""
    return await AsyncConnection.connect(url, autocommit=True, **_CONNECTION)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work` on Postgres, but not longer.

    A cancelled psycopg query first tries to cancel itself on the server, for up to ten seconds when the server hangs;
    so the work is left to end by itself.

    Raises:
        Unavailable: "postgres", on any error or when the time is up.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise Unavailable("postgres", f"no answer within {seconds:g} s")
    try:
        return task.result()
    except psycopg.Error as failure:
        raise unavailable(failure) from failure


_abandoned: set[asyncio.Future[Any]] = set()


def _abandon(task: asyncio.Future[Any]) -> None:
    _abandoned.add(task)  # the loop keeps weak references only
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # seen: nobody waits for it any more
