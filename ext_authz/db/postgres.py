"""Connections to Postgres that notice a dead peer, and a deadline that holds even when Postgres hangs.

A pooler in transaction mode (PgBouncer) may stand in between: from one transaction to the next a connection may lead to
another session of Postgres. So nothing here or elsewhere leaves state in a session: no prepared statement, no SET that
outlives its transaction, no session lock, no temporary table, no cursor outside a transaction. Every open transaction
takes one of the pooler's few connections: keep it short, page through large tables by their key. LISTEN has a
connection of its own (`listening`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic import SecretStr

from ext_authz.db.backoff import Backoff
from ext_authz.db.causes import postgres_cause, unavailable
from ext_authz.errors import Unavailable

log = logging.getLogger(__name__)

# libpq sends it when it connects, so that it overrides the database and the role: psycopg parses times in this style.
os.environ["PGDATESTYLE"] = "ISO"

Connection = AsyncConnection[TupleRow]
T = TypeVar("T")

_CONNECTION: dict[str, Any] = {
    "application_name": "tollgate",
    "client_encoding": "UTF8",  # overrides the database, the role and PGCLIENTENCODING
    # A statement prepared in one session is unknown, or known as another one, in the next.
    "prepare_threshold": None,
    "connect_timeout": 5,
    # A peer that vanished without a word is noticed after about 10 seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Read(Protocol):
    """Run a query over pooled connections; raises Unavailable("postgres")."""

    def __call__(self, work: Callable[[Connection], Awaitable[T]], /) -> Awaitable[T]: ...


class _Remembering(AsyncConnection[TupleRow]):
    """Keeps the reason of the last failed attempt to connect: the pool itself only reports a timeout."""

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


class Pool:
    """Connections that many callers share. It opens while Postgres is still down."""

    def __init__(self, url: str, *, timeout: float, size: int = 4) -> None:
        """`timeout`: of every answer, in seconds. The wait for a connection is a little shorter, so that its cause is
        known. A connection is tested before it is handed out, so that a restart of Postgres costs no request."""
        self._timeout = timeout
        self._connection: type[_Remembering] = type("Connection", (_Remembering,), {})
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            connection_class=self._connection,
            kwargs={**_CONNECTION, "autocommit": True},
            open=False,
            min_size=1,
            max_size=size,
            timeout=timeout * 0.9,
            # The pool's back-off doubles up to minutes, and no caller would be served for so long after an outage. With
            # this a caller that waits makes the pool connect, twice a second.
            reconnect_timeout=0.5,
            check=AsyncConnectionPool.check_connection,
        )

    async def open(self) -> None:
        """Does not wait for Postgres."""
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Raises Unavailable("postgres") on any error of Postgres, or without an answer in time."""

        async def answered() -> T:
            try:
                async with self._pool.connection() as connection:
                    return await work(connection)
            except PoolTimeout as late:
                raise self._connection.last_failure or late from None

        return await within(self._timeout, answered())

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """As `run`, all of it or nothing."""

        async def whole(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self.run(whole)


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
    except (psycopg.Error, TimeoutError) as failure:
        raise unavailable(failure) from failure


_abandoned: set[asyncio.Future[Any]] = set()


def _abandon(task: asyncio.Future[Any]) -> None:
    _abandoned.add(task)  # the loop keeps weak references only
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved: no caller waits for it any more


# LISTEN

ANSWER = 10.0
"""Longest wait for Postgres to take the LISTEN, in seconds."""


@asynccontextmanager
async def listening(url: SecretStr, channel: str) -> AsyncGenerator[asyncio.Event]:
    """Listen until the block ends. The event is set when a notification came, or may have been missed; clear it.

    `url` leads to Postgres itself; through a pooler no notification arrives.
    """
    received = asyncio.Event()
    task = asyncio.create_task(_listen(url.get_secret_value(), channel, received), name=f"listen {channel}")
    try:
        yield received
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _listen(url: str, channel: str, received: asyncio.Event) -> None:
    """Survives every failure of Postgres; each cause is logged once."""
    backoff, logged = Backoff(asyncio.Event()), ""
    while True:
        try:
            async with await connect(url) as connection:
                if await _is_pooled(connection):
                    log.warning("no notifications from postgres through a pooler: polling", extra={"channel": channel})
                    return
                await _start(connection, channel)
                logged = ""
                backoff.succeeded()
                await _receive(connection, received)
        except (psycopg.Error, OSError) as failure:  # TimeoutError is an OSError
            if (cause := postgres_cause(failure)) != logged:
                logged = cause
                log.warning("no notifications from postgres: polling", extra={"channel": channel, "error": cause})
        except Exception:
            log.exception("no notifications from postgres, unexpected failure: polling", extra={"channel": channel})
        await backoff.pause()


async def _start(connection: Connection, channel: str) -> None:
    async with asyncio.timeout(ANSWER):
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


async def _receive(connection: Connection, received: asyncio.Event) -> None:
    received.set()  # what was sent before we listened
    async for _ in connection.notifies():
        received.set()


async def _is_pooled(connection: Connection) -> bool:
    """A pooler makes up the process id that it greets with: clients come and go, its connections to Postgres stay.

    There LISTEN would be in force for the next client of that connection.
    """
    async with asyncio.timeout(ANSWER):
        cursor = await connection.execute("SELECT pg_backend_pid()")
        ((pid,),) = await cursor.fetchall()
    return bool(pid != connection.info.backend_pid)
