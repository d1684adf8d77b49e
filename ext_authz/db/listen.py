"""Hears NOTIFY over a connection of its own. What is not heard is found by polling, a little later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import psycopg
from psycopg import sql
from pydantic import SecretStr

from ext_authz.db.backoff import Backoff
from ext_authz.db.pool import Connection, connect

log = logging.getLogger(__name__)

ANSWER = 10.0
"""Longest wait for Postgres to take the LISTEN, in seconds."""


class Notifications:
    """What was heard on a channel."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def hear(self) -> None:
        self._heard.set()

    async def wait(self, seconds: float) -> bool:
        """True at once when something was heard since the last call, or may have been missed; False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        heard = self._heard.is_set()
        self._heard.clear()
        return heard


@asynccontextmanager
async def listening(url: SecretStr, channel: str) -> AsyncGenerator[Notifications]:
    """Listen until the block ends. `url` leads to Postgres itself; through a pooler nothing is ever heard."""
    notifications = Notifications()
    task = asyncio.create_task(_listen(url.get_secret_value(), channel, notifications), name=f"listen {channel}")
    try:
        yield notifications
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _listen(url: str, channel: str, notifications: Notifications) -> None:
    """Outlives every failure of Postgres; each cause is logged once."""
    backoff, trouble = Backoff(asyncio.Event()), ""
    while True:
        try:
            async with await connect(url) as connection:
                if await _is_pooled(connection):
                    log.warning("not told by postgres, a pooler is in between: polling", extra={"channel": channel})
                    return
                await _start(connection, channel)
                trouble = ""
                backoff.succeeded()
                await _hear(connection, notifications)
        except (psycopg.Error, OSError) as failure:  # TimeoutError is an OSError
            if str(failure) != trouble:
                trouble = str(failure)
                log.warning("not told by postgres: polling", extra={"channel": channel, "error": trouble})
        except Exception:
            log.exception("not told by postgres, unexpected failure: polling", extra={"channel": channel})
        await backoff.pause()


async def _start(connection: Connection, channel: str) -> None:
    async with asyncio.timeout(ANSWER):
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


async def _hear(connection: Connection, notifications: Notifications) -> None:
    notifications.hear()  # what was said before we listened
    async for _ in connection.notifies():
        notifications.hear()


async def _is_pooled(connection: Connection) -> bool:
    """A pooler makes up the process id that it greets with: clients come and go, its connections to Postgres stay.

    There LISTEN would be in force for whoever gets that connection next.
    """
    async with asyncio.timeout(ANSWER):
        cursor = await connection.execute("SELECT pg_backend_pid()")
        ((pid,),) = await cursor.fetchall()
    return bool(pid != connection.info.backend_pid)
