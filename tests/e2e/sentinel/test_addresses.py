"""What is said where Sentinel, or what it names, cannot be used; and that the commands go through it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from time import monotonic

import pytest
from redis import Redis
from redis.exceptions import RedisError

from ext_authz.db.causes import redis_cause
from ext_authz.db.redis import connect
from ext_authz.db.sentinel import ANSWER
from tests.sentinel import NAME, Group, running_group
from tests.services import free_port


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    with running_group(tmp_path_factory.mktemp("sentinel")) as group:
        yield group


async def cause(url: str) -> str:
    async with connect(url, timeout=2) as client:
        with pytest.raises(RedisError) as failure:
            await client.get("{tg0}:complete")
    return redis_cause(failure.value)


async def test_the_sentence_says_what_is_wrong(group: Group) -> None:
    url = group.url()
    assert "know no primary of this name" in await cause(url.replace(f"/{NAME}/", "/other/"))
    for password in ("wrong", ""):
        said = await cause(group.url(sentinel_password=password))
        assert said == "its Sentinels refuse the user or password: see sentinel_password in TOLLGATE_REDIS_URL"
    assert await cause(url.replace("/0?", "/99?")) == (
        "it has no such database: see the number at the end of TOLLGATE_REDIS_URL"
    )
    nowhere = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/{NAME}"
    assert (await cause(nowhere)).startswith("none of its Sentinels answers (Error 111 connecting to 127.0.0.1:")
    said = await cause(url.replace("redis+", "rediss+"))
    assert said == "no answer in time to TLS: rediss:// is with TLS, redis:// without"


async def test_one_sentinel_that_answers_is_enough(group: Group) -> None:
    url = group.url().replace("//", f"//127.0.0.1:{free_port()},192.0.2.1:26379,")
    async with connect(url, timeout=2) as client:
        assert await client.set("{tg0}:complete", "x")


async def test_a_replica_is_never_used(group: Group) -> None:
    """As for the moment in which a Sentinel does not know yet."""
    primary = group.primary
    with Redis.from_url(primary.url) as client:
        client.replicaof("127.0.0.1", str(free_port()))
        said = await cause(group.url())
        client.replicaof("NO", "ONE")
    assert said == "its Sentinels name a server that is a replica: a fail-over is under way"


async def test_silent_sentinels_delay_a_connection_once_a_second_and_not_each_command(group: Group) -> None:
    async with connect(group.url(), timeout=2) as client:

        async def seconds() -> float:
            asked_at = monotonic()
            assert await client.set("{tg0}:complete", "x")
            return monotonic() - asked_at

        await seconds()
        for sentinel in group.sentinels:
            sentinel.send(signal.SIGSTOP)
        try:
            while await seconds() < ANSWER:
                pass
            assert await seconds() < ANSWER / 2
        finally:
            for sentinel in group.sentinels:
                sentinel.send(signal.SIGCONT)


async def test_a_redis_that_is_no_sentinel_is_named_as_that(group: Group) -> None:
    said = await cause(f"redis+sentinel://127.0.0.1:{group.primary.port}/{NAME}")
    assert said.startswith("it has no Sentinel where TOLLGATE_REDIS_URL names one")
