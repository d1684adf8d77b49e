"""The link that settlements travel over: one connection to one known Redis process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError, NoScriptError, RedisError

from ext_authz import redis_keys
from ext_authz.db.redis import connection_to
from ext_authz.settlement.script import SCRIPT, SHA


class NothingDone(Exception):
    """The connection is of no use, and Redis did nothing: the same call may go over another one."""


class Link:
    """One connection, bound to the Redis process at its other end.

    The process is known by its `run_id`, sent with every call: a restarted Redis has another one, so that it cannot
    vouch for revocations it may have lost.
    """

    def __init__(self, connection: AbstractConnection, tag: str) -> None:
        self._connection = connection
        self._tag = tag
        self._run_id = ""
        self._clock_offset_ms = 0.0

    async def open(self) -> None:
        """Connect, learn who is there, load the script. Refuses a Redis that may throw revocations away."""
        await self._connection.connect()  # type: ignore[no-untyped-call]
        server = _fields(await self._ask("INFO", "server"))
        memory = _fields(await self._ask("INFO", "memory"))
        policy = memory["maxmemory_policy"]
        if memory["maxmemory"] != "0" and policy != "noeviction":
            raise RedisError(
                f"set Redis' maxmemory-policy to noeviction: under {policy} it drops revocations when full"
            )
        self._run_id = server["run_id"]
        seconds, micros = await self._ask("TIME")
        self.set_clock(int(seconds) * 1000 + int(micros) // 1000)
        await self._ask("SCRIPT", "LOAD", SCRIPT)

    def set_clock(self, redis_ms: int) -> None:
        """Redis' wall clock against the loop's; taken from every reply, since either clock may be set."""
        self._clock_offset_ms = redis_ms - asyncio.get_running_loop().time() * 1000

    async def settle(self, body: bytes, until: float, ledger_max: int) -> bytes:
        """Call the script, which does nothing when Redis gets to it only after `until` (loop time).

        Raises:
            NothingDone: the other end closed the connection while it was idle, or the shard moved to another node.
            RedisError, OSError: nobody knows what was done.
        """
        if not self._connection.is_connected or await self._connection.can_read():
            raise NothingDone
        expires = int(until * 1000 + self._clock_offset_ms)
        call = ("EVALSHA", SHA, 1, self._tag, body, self._run_id, expires, ledger_max)
        try:
            return await self._ask(*call)  # type: ignore[no-any-return]
        except NoScriptError:  # SCRIPT FLUSH
            await self._ask("SCRIPT", "LOAD", SCRIPT)
            return await self._ask(*call)  # type: ignore[no-any-return]
        except MovedError as moved:
            raise NothingDone from moved

    def abort(self) -> None:
        """Cut it now, without sending what is still in the buffer: the other end may never take it."""
        writer = self._connection._writer  # noqa: SLF001 - redis-py only closes after the buffer is empty
        if writer:
            writer.transport.abort()

    async def close(self) -> None:
        self.abort()
        await self._connection.disconnect(nowait=True)

    async def _ask(self, *command: str | bytes | int) -> Any:  # noqa: ANN401 - whatever Redis answers
        # redis-py's own packing is Python: 14 us, against 0.6 for a batch of one check.
        packed = pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one
        await self._connection.send_packed_command(packed, check_health=False)
        return await self._connection.read_response(disable_decoding=True)


@asynccontextmanager
async def open_link(url: str, shard: int, seconds: float) -> AsyncIterator[Link]:
    """Connect to the Redis that holds the shard: the one of the URL, or the cluster node that it points to.

    Raises:
        RedisError, OSError, TimeoutError: there is none that could be used.
    """
    kind, options = connection_to(url, shard, socket_timeout=None, protocol=2)
    link = Link(kind(**options), redis_keys.shard_tag(shard))
    try:
        async with asyncio.timeout(seconds):
            await link.open()
        yield link
    finally:
        await link.close()


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
