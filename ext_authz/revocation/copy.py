"""The copy of the revocations in Redis, one in every shard. Only `copy.lua` and `fill` write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hiredis import pack_command
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import AskError, RedisError

from ext_authz.db import redis_keys
from ext_authz.db.positions import Position
from ext_authz.db.redis import ask_target, is_migrating, replies_to
from ext_authz.revocation.feed import chunk_of, rows_of

LEASE_MS = 5000
"""A rebuild that writes nothing for so long may be taken over."""


class Status(Struct, frozen=True):
    """What one Redis process reports about itself."""

    run_id: str
    lineage: str
    """Replication id: changes when a replica takes over, so also when the old primary comes back with less."""
    eviction: str
    marker: str
    followed: str

    @property
    def keeps_keys(self) -> bool:
        """Every other policy may evict a revocation, which all have an expiry."""
        return self.eviction == "noeviction"

    @property
    def complete(self) -> bool:
        """Whether checks rely on this copy."""
        return self.marker == self.run_id

    @property
    def position(self) -> Position | None:
        """Up to where all of Postgres is here; None where that cannot be relied on."""
        lineage, _, position = self.followed.partition(" ")
        if not (position and self.complete and self.keeps_keys and lineage == self.lineage):
            return None
        return Position.parse(position)


class Applied(Struct, frozen=True):
    """The result of writing a chunk."""

    rows: int
    """How many were new here; -1: the rebuild was lost, nothing was written."""
    ahead: Sequence[tuple[str, str]] = ()
    """Id, and what is held, of rows that are lifted here by a later revision than the one that came."""


LOST = Applied(-1)


class RevocationCopy:
    """Every method raises RedisError when Redis gives no answer."""

    def __init__(self, redis: Redis, shard: int = 0) -> None:
        """`redis`: a client of the node that holds the shard."""
        self.shard = shard
        self._redis = redis
        self._script = redis.register_script(Path(__file__).with_suffix(".lua").read_text(encoding="utf-8"))

    async def write(self, chunk: str, *, nonce: str = "", followed: str = "") -> Applied:
        """Write a chunk. Order and repetition do not matter.

        While the slot is being migrated nothing can be written, and nothing need be: checks do not rely on the shard
        until it has been filled again, so the row is in force by Postgres.

        `nonce`: of the rebuild that this belongs to; `followed`: the position of the shard once it has this chunk.
        """
        keys = [redis_keys.rebuilding(self.shard), redis_keys.followed(self.shard)]
        prefix = redis_keys.revocation("", self.shard)
        try:
            rows, *ahead = await self._run("write", keys, nonce, LEASE_MS, prefix, followed, chunk)
        except RedisError as failure:
            return await self._missed(failure, nonce)
        names = [name.decode() for name in ahead]
        return Applied(rows, list(zip(names[::2], names[1::2], strict=True)))

    async def fill(self, chunk: str, nonce: str) -> Applied:
        """As `write`, at half its cost where no row is there yet.

        SET NX replaces nothing, whatever became of the nonce meanwhile. Where a key was there already, the script
        decides which revision is the later one.
        """
        rows, rebuilding = list(rows_of(chunk)), redis_keys.rebuilding(self.shard)
        packed = _set_where_missing(rows, redis_keys.revocation("", self.shard))
        for command in (("GET", rebuilding), ("PEXPIRE", rebuilding, LEASE_MS)):
            packed += pack_command(command)  # type: ignore[arg-type]
        try:
            *taken, held, _ = await replies_to(self._redis, packed, len(rows) + 2)
        except RedisError as failure:
            return await self._missed(failure, nonce)
        if held != nonce.encode():
            return LOST
        left = [row for row, reply in zip(rows, taken, strict=True) if reply is None]
        if not left:
            return Applied(len(rows))
        rest = await self.write(chunk_of(left), nonce=nonce)
        return rest if rest.rows < 0 else Applied(len(rows) - len(left) + rest.rows, rest.ahead)

    async def _missed(self, failure: RedisError, nonce: str) -> Applied:
        if not is_migrating(failure):
            raise failure
        await self.distrust()
        return LOST if nonce else Applied(0)

    async def status(self) -> Status:
        # The tag never exists: so the server answers ASK while the slot is being migrated.
        keys = [redis_keys.shard_tag(self.shard), redis_keys.complete(self.shard), redis_keys.followed(self.shard)]
        try:
            answer = await self._run("status", keys)
        except RedisError as failure:
            if is_migrating(failure):
                await self.distrust()
            raise
        return Status(*(part.decode() for part in answer))

    async def begin(self, nonce: str, found: Status, *, last_nonce: str) -> bool:
        """Remove the marker and begin a rebuild; False when another process does."""
        keys = [redis_keys.complete(self.shard), redis_keys.rebuilding(self.shard)]
        return bool(await self._run("begin", keys, nonce, LEASE_MS, found.marker, last_nonce))

    async def finish(self, nonce: str, found: Status, position: Position) -> bool:
        """Set the marker; False when anything may have been lost since `found`."""
        keys = [redis_keys.complete(self.shard), redis_keys.rebuilding(self.shard), redis_keys.followed(self.shard)]
        followed = f"{found.lineage} {position}"
        return bool(await self._run("finish", keys, nonce, found.run_id, found.lineage, followed))

    async def distrust(self) -> None:
        """Remove the marker: checks ask Postgres."""
        try:
            await self._redis.delete(redis_keys.complete(self.shard))
        except AskError as ask:  # the slot is being migrated, and the marker is not here, if anywhere
            await ask_target(self._redis, ask, "DEL", redis_keys.complete(self.shard))

    async def forget(self, entry_id: str, held: str) -> None:
        """Remove a row, unless it was written again."""
        await self._run("forget", [redis_keys.revocation(entry_id, self.shard)], held)

    async def claim_comparison(self, name: str) -> int | None:
        """None: `name` is to compare the shard with Postgres now; else the rows in force when it was last compared."""
        key = redis_keys.compared(self.shard)
        if await self._redis.set(key, name, px=LEASE_MS, nx=True):
            return None
        held = await self._redis.get(key)
        if held == name.encode():
            await self._redis.pexpire(key, LEASE_MS)
            return None
        return int(held) if held and held.isdigit() else -1

    async def end_comparison(self, in_force: int, seconds: float) -> None:
        """It is done; the next one may begin after so long."""
        await self._redis.set(redis_keys.compared(self.shard), in_force, px=max(1, round(seconds * 1000)))

    async def _run(self, operation: str, keys: list[str], *args: str | int) -> Any:  # noqa: ANN401 - as copy.lua says
        return await self._script(keys=keys, args=[operation, *args])


def _set_where_missing(rows: Iterable[tuple[str, str, str]], prefix: str) -> bytes:
    """One command per row; packed by hand in 0.4 us each, where redis-py takes 5."""
    commands = [
        f"*6\r\n$3\r\nSET\r\n${len(prefix) + len(entry_id.encode())}\r\n{prefix}{entry_id}\r\n"
        f"${len(held)}\r\n{held}\r\n$4\r\nPXAT\r\n${len(expires)}\r\n{expires}\r\n$2\r\nNX\r\n"
        for entry_id, held, expires in rows
    ]
    return "".join(commands).encode()
