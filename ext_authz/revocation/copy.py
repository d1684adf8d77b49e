"""The copy of the revocations in Redis, in every shard. Only these scripts write it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from hiredis import pack_command
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import AskError, RedisError

from ext_authz.db import redis_keys
from ext_authz.db.redis import ask_target, is_migrating, replies_to
from ext_authz.revocation.change import Change, Position, Row, chunk_of, chunk_with, rows_of

LEASE_MS = 5000
"""A rebuild that writes nothing for so long is taken over."""


class Status(Struct, frozen=True):
    """What one Redis process says about itself."""

    run_id: str
    lineage: str
    """Replication id: changes when a replica takes over, so also when the old primary comes back with less."""
    eviction: str
    marker: str
    followed: str

    @property
    def keeps_keys(self) -> bool:
        """Every other policy may drop a revocation, which all have an expiry."""
        return self.eviction == "noeviction"

    @property
    def complete(self) -> bool:
        """Whether checks believe it."""
        return self.marker == self.run_id

    @property
    def position(self) -> Position | None:
        """Up to where all of Postgres is here; None where that cannot be believed."""
        lineage, _, position = self.followed.partition(" ")
        if not (position and self.complete and self.keeps_keys and lineage == self.lineage):
            return None
        return Position.parse(position)


class Written(Struct, frozen=True):
    """What became of a chunk."""

    rows: int
    """How many were new here; -1: the rebuild was lost, nothing was written."""
    ahead: Sequence[tuple[str, str]] = ()
    """Id, and what is held, of rows that are lifted here by a later revision than the one that came."""


class RevocationCopy:
    """Every method raises RedisError when Redis gives no answer."""

    def __init__(self, *shards: Redis) -> None:
        """One client per shard, each of the node that holds it."""
        self.shards = range(len(shards))
        self._redis = shards
        self._apply = shards[0].register_script(_script("apply"))
        self._status = shards[0].register_script(_script("status"))
        self._begin = shards[0].register_script(_script("begin"))
        self._finish = shards[0].register_script(_script("finish"))
        self._forget = shards[0].register_script(_script("forget"))

    async def apply(self, changes: Sequence[Change]) -> dict[int, BaseException]:
        """Bring these rows into every shard; returns the shards that do not hold them, and why."""
        chunk = chunk_of(changes)
        applied = (self.write(shard, chunk) for shard in self.shards)
        answers = await asyncio.gather(*applied, return_exceptions=True)
        failures = {shard: each for shard, each in enumerate(answers) if isinstance(each, BaseException)}
        for failure in failures.values():
            if not isinstance(failure, RedisError | OSError):
                raise failure
        return failures

    async def write(self, shard: int, chunk: str, *, nonce: str = "", followed: str = "") -> Written:
        """Bring a chunk into one shard. Order and repetition do not matter.

        While the slot is being migrated nothing can be written, and nothing need be: the shard is not believed until
        it was filled anew, so the row is in force by Postgres.

        `nonce`: of the rebuild that this belongs to; `followed`: what the shard knows once it has this chunk.
        """
        keys = [redis_keys.rebuilding(shard), redis_keys.followed(shard)]
        args: list[str | int] = [nonce, LEASE_MS, redis_keys.revocation("", shard), followed, chunk]
        try:
            rows, *ahead = await self._apply(keys=keys, args=args, client=self._redis[shard])
        except RedisError as failure:
            return await self._missed(shard, failure, nonce)
        names = [name.decode() for name in ahead]
        return Written(rows, list(zip(names[::2], names[1::2], strict=True)))

    async def fill(self, shard: int, chunk: str, nonce: str) -> Written:
        """As `write`, at half its cost where no row is there yet.

        SET NX replaces nothing, whatever became of the nonce meanwhile. Where a key was there already, the script
        decides which revision is the later one.
        """
        rows, rebuilding = list(rows_of(chunk)), redis_keys.rebuilding(shard)
        packed = _set_where_missing(rows, redis_keys.revocation("", shard))
        for command in (("GET", rebuilding), ("PEXPIRE", rebuilding, LEASE_MS)):
            packed += pack_command(command)  # type: ignore[arg-type]
        try:
            *taken, held, _ = await replies_to(self._redis[shard], packed, len(rows) + 2)
        except RedisError as failure:
            return await self._missed(shard, failure, nonce)
        if held != nonce.encode():
            return Written(-1)
        left = [row for row, reply in zip(rows, taken, strict=True) if reply is None]
        if not left:
            return Written(len(rows))
        rest = await self.write(shard, chunk_with(left), nonce=nonce)
        return rest if rest.rows < 0 else Written(len(rows) - len(left) + rest.rows, rest.ahead)

    async def _missed(self, shard: int, failure: RedisError, nonce: str) -> Written:
        if not is_migrating(failure):
            raise failure
        await self.distrust(shard)
        return Written(-1 if nonce else 0)

    async def status(self, shard: int) -> Status:
        # The tag never exists: so a slot that is being migrated shows.
        keys = [redis_keys.shard_tag(shard), redis_keys.complete(shard), redis_keys.followed(shard)]
        try:
            answer = await self._status(keys=keys, client=self._redis[shard])
        except RedisError as failure:
            if is_migrating(failure):
                await self.distrust(shard)
            raise
        return Status(*(part.decode() for part in answer))

    async def begin(self, shard: int, nonce: str, found: Status, *, last_nonce: str) -> bool:
        """Take the marker away and start over; False when somebody else is at it."""
        keys = [redis_keys.complete(shard), redis_keys.rebuilding(shard)]
        args: list[str | int] = [nonce, LEASE_MS, found.marker, last_nonce]
        return bool(await self._begin(keys=keys, args=args, client=self._redis[shard]))

    async def finish(self, shard: int, nonce: str, found: Status, position: Position) -> bool:
        """Set the marker; False when anything may have been lost since `found`."""
        keys = [redis_keys.complete(shard), redis_keys.rebuilding(shard), redis_keys.followed(shard)]
        args = [nonce, found.run_id, found.lineage, f"{found.lineage} {position}"]
        return bool(await self._finish(keys=keys, args=args, client=self._redis[shard]))

    async def distrust(self, shard: int) -> None:
        """Take the marker away: checks ask Postgres."""
        try:
            await self._redis[shard].delete(redis_keys.complete(shard))
        except AskError as ask:  # the slot is being migrated, and the marker is not here, if anywhere
            await ask_target(self._redis[shard], ask, "DEL", redis_keys.complete(shard))

    async def forget(self, shard: int, entry_id: str, held: str) -> None:
        """Let go of a row, unless it was written again."""
        await self._forget(keys=[redis_keys.revocation(entry_id, shard)], args=[held], client=self._redis[shard])

    async def claim(self, shard: int, name: str) -> int | None:
        """Whether this one is to compare the shard now (None: yes), or how many were in force when it was last done."""
        key, redis = redis_keys.compared(shard), self._redis[shard]
        if await redis.set(key, name, px=LEASE_MS, nx=True):
            return None
        held = await redis.get(key)
        if held == name.encode():
            await redis.pexpire(key, LEASE_MS)
            return None
        return int(held) if held and held.isdigit() else -1

    async def compared(self, shard: int, in_force: int, seconds: float) -> None:
        """It is done; not to be done again for so long."""
        await self._redis[shard].set(redis_keys.compared(shard), in_force, px=max(1, round(seconds * 1000)))


def _script(name: str) -> str:
    return Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")


def _set_where_missing(rows: Iterable[Row], prefix: str) -> bytes:
    """One command per row; built by hand at 0.4 us each, where redis-py takes 5."""
    commands = [
        f"*6\r\n$3\r\nSET\r\n${len(prefix) + len(entry_id.encode())}\r\n{prefix}{entry_id}\r\n"
        f"${len(held)}\r\n{held}\r\n$4\r\nPXAT\r\n${len(expires)}\r\n{expires}\r\n$2\r\nNX\r\n"
        for entry_id, held, expires in rows
    ]
    return "".join(commands).encode()
