"""A rebuild writes past the script: nothing that is there is replaced, and nothing that is lost goes unnoticed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from ext_authz.db import redis, redis_keys
from ext_authz.db.positions import Position
from ext_authz.revocation.copy import Applied, RevocationCopy, Status
from ext_authz.revocation.entry import Kind, Target
from ext_authz.revocation.feed import Row, chunk_of
from tests.e2e.revocation.world import World, entry
from tests.services import RedisServer, redis_programs, running_redis
from tests.waiting import running

NONCE = "nonce"
END = "4000000000000"
PROGRAMS = redis_programs()


def row(value: str, held: str) -> Row:
    return Row(f"t:demo:{value}", held, END)


CHUNK = chunk_of([row(f"old-{number}", "5") for number in range(100)])


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=list(PROGRAMS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis"), program=request.param) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with redis.connect(server.url, timeout=2) as client:
        await client.flushall()
        yield client


@pytest.fixture
def copy(client: Redis) -> RevocationCopy:
    return RevocationCopy(client)


@pytest.fixture
async def found(copy: RevocationCopy) -> Status:
    """A rebuild has begun."""
    found = await copy.status()
    assert await copy.begin(NONCE, found, last_nonce="")
    return found


async def held(client: Redis, value: str) -> str | None:
    found = await client.get(redis_keys.revocation(f"t:demo:{value}"))
    return found.decode() if isinstance(found, bytes) else None


@pytest.mark.usefixtures("found")
async def test_what_is_not_there_is_written_with_its_end(copy: RevocationCopy, client: Redis) -> None:
    odd = ['quote"\\', "\u00fcml\u00e4ut", "\u65e5\u672c", "*3", "$-1"]
    chunk = chunk_of([*(row(value, "7:12") for value in odd), row("lifted", "-8")])
    assert await copy.fill(chunk, NONCE) == Applied(len(odd) + 1)
    assert [await held(client, value) for value in odd] == ["7:12"] * len(odd)
    assert await held(client, "lifted") == "-8"
    left = await client.pttl(redis_keys.revocation("t:demo:*3"))
    assert left == pytest.approx(int(END) - time.time() * 1000, abs=60_000)


@pytest.mark.usefixtures("found")
async def test_of_what_is_there_the_later_revision_stays(copy: RevocationCopy, client: Redis) -> None:
    there = [row("older", "4"), row("newer", "6"), row("same", "5"), row("lifted", "-6"), row("lifted before", "-4")]
    assert (await copy.write(chunk_of(there))).rows == len(there)
    chunk = chunk_of([*(row(each.id.removeprefix("t:demo:"), "5") for each in there), row("free", "5")])
    assert await copy.fill(chunk, NONCE) == Applied(3, [("t:demo:lifted", "-6")])
    assert [await held(client, value) for value in ("older", "newer", "same", "free")] == ["5", "6", "5", "5"]
    assert [await held(client, value) for value in ("lifted", "lifted before")] == ["-6", "5"]


async def test_a_rebuild_that_lost_its_nonce_replaces_nothing_and_ends(
    copy: RevocationCopy, client: Redis, found: Status
) -> None:
    assert (await copy.fill(CHUNK, NONCE)).rows == 100
    await client.flushall()
    assert await copy.begin("of another rebuild", await copy.status(), last_nonce="")
    assert (await copy.write(chunk_of([row("old-1", "-6"), row("old-2", "6:9")]))).rows == 2
    assert await copy.fill(CHUNK, NONCE) == Applied(-1)
    assert [await held(client, value) for value in ("old-1", "old-2")] == ["-6", "6:9"]
    assert not await copy.finish(NONCE, found, Position("0-0", "1:1:"))


async def test_a_flush_behind_the_last_row_leaves_no_marker(copy: RevocationCopy, client: Redis, found: Status) -> None:
    assert (await copy.fill(CHUNK, NONCE)).rows == 100
    await client.flushall()
    assert not await copy.finish(NONCE, found, Position("0-0", "1:1:"))
    assert not (await copy.status()).complete


class _BeginsToMove(RevocationCopy):
    """Its slot does, before the script is called."""

    async def write(self, chunk: str, *, nonce: str = "", followed: str = "") -> Applied:
        assert followed == ""
        assert chunk
        return Applied(-1 if nonce else 0)


@pytest.mark.usefixtures("found")
async def test_rows_that_the_script_could_not_write_end_the_rebuild(client: Redis) -> None:
    await RevocationCopy(client).write(chunk_of([row("old-1", "4")]))
    assert await _BeginsToMove(client).fill(CHUNK, NONCE) == Applied(-1)


@pytest.mark.usefixtures("found")
async def test_each_chunk_renews_the_lease(copy: RevocationCopy, client: Redis) -> None:
    await client.pexpire(redis_keys.rebuilding(), 1000)
    assert (await copy.fill(CHUNK, NONCE)).rows == 100
    assert await client.pttl(redis_keys.rebuilding()) > 1000


async def test_an_error_among_the_replies_is_raised_and_the_connection_not_used_again(
    copy: RevocationCopy, client: Redis, found: Status
) -> None:
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            await copy.fill(CHUNK, NONCE)
    finally:
        await client.config_set("maxmemory", 0)
    assert (await copy.status()).run_id == found.run_id
    assert await copy.fill(CHUNK, NONCE) == Applied(100)


async def test_a_redis_that_comes_back_with_an_older_state_is_brought_up_to_date(world: World) -> None:
    """As from an old append-only file: every key is there, some with what has been overtaken since."""
    old = [(await world.store.revoke(entry(f"old-{number}"))).row for number in range(3)]
    assert (await world.copy.write(chunk_of(old))).rows == len(old)
    assert await world.store.lift(Target(Kind.TOKEN, "demo", "old-1"))
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        assert [await world.held(each.id) for each in old] == ["1", None, "1"]
