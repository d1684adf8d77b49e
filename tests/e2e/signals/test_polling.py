"""Events that are asked for: each is obeyed once, and acknowledged when it is in force and not before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
import pytest

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import Pool
from ext_authz.errors import Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.messages import SignedMessages
from ext_authz.signals import polling
from ext_authz.signals.obedience import Obedience
from ext_authz.signals.polling import Polling, connect
from ext_authz.signals.stream import Streams
from ext_authz.signals.transmitter import Transmitter
from tests.e2e.signals.transmitting import SSF, FakeTransmitter
from tests.e2e.signals.world import Receiving
from tests.signals import event, session_subject
from tests.tokens import RSA, RSA_NEXT, jwks
from tests.unit.identity.world import an_issuer
from tests.waiting import running, until

pytestmark = pytest.mark.usefixtures("console")


def jti_of(text: str) -> str:
    return str(jwt.decode(text, options={"verify_signature": False})["jti"])


@pytest.fixture
def transmitter() -> FakeTransmitter:
    return FakeTransmitter()


def receiver_of(transmitter: FakeTransmitter, secret: str = "secret") -> Transmitter:
    return Transmitter(an_issuer(), "tollgate-console", secret, transmitter.http)


@asynccontextmanager
async def polled(
    console: Receiving,
    transmitter: FakeTransmitter,
    url: str,
    *,
    obedience: Obedience | None = None,
) -> AsyncIterator[Polling]:
    """A process that asks, until the end of the block."""

    async def fetch(_: str) -> bytes:
        return jwks(RSA)

    clock, pool = SystemClock(), Pool(url, timeout=5)
    authenticator = TokenAuthenticator([an_issuer()], fetch=fetch, clock=clock, cache_size=1)
    await pool.open()
    task = Polling(
        Streams(pool, "ml"),
        receiver_of(transmitter),
        SignedMessages(authenticator.key_sets),
        obedience or console.obedience,
        clock,
        0.01,
    )
    async with running(task):
        yield task
    await pool.close()


async def connected(console: Receiving, transmitter: FakeTransmitter) -> None:
    await console.streams.keep(await connect(receiver_of(transmitter), None))


async def test_events_are_acknowledged_when_they_are_in_force(
    console: Receiving, transmitter: FakeTransmitter, database_url: str
) -> None:
    await connected(console, transmitter)
    texts = [event({"sub_id": session_subject(f"s{number}")}) for number in range(60)]
    transmitter.sets = {jti_of(text): text for text in texts}
    async with polled(console, transmitter, database_url) as task:
        await until(lambda: len(transmitter.acknowledged) == 60, 60)
        assert task.cause == ""
    assert len(await console.revoked()) == len(await console.audit()) == 60
    # Another process, and a transmitter that forgot what was acknowledged.
    transmitter.sets = {jti_of(text): text for text in texts}
    transmitter.acknowledged = []
    async with polled(console, transmitter, database_url):
        await until(lambda: len(transmitter.acknowledged) == 60, 60)
    assert len(await console.audit()) == 60


async def test_what_is_refused_is_reported_and_does_not_stand_in_the_way(
    console: Receiving, transmitter: FakeTransmitter, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "_PATIENCE", 0.05)
    await connected(console, transmitter)
    good, foreign, unsigned = event(), event({"aud": "other"}), event(key=RSA_NEXT)
    transmitter.sets = {"1": foreign, jti_of(unsigned): unsigned, "2": good, jti_of(good): good}
    async with polled(console, transmitter, database_url):
        await until(lambda: not transmitter.sets)
    assert transmitter.acknowledged == [jti_of(good)]
    assert set(transmitter.refused) == {"1", "2", jti_of(unsigned)}
    assert len(await console.revoked()) == 1


async def test_nothing_is_acknowledged_that_a_store_did_not_confirm(
    console: Receiving, transmitter: FakeTransmitter, database_url: str
) -> None:
    class Failing(Obedience):
        async def obey(self, *_: object, **__: object) -> None:
            raise Unavailable("redis", "away")

    await connected(console, transmitter)
    text = event()
    transmitter.sets = {jti_of(text): text}
    obedience = Failing.__new__(Failing)
    async with polled(console, transmitter, database_url, obedience=obedience) as task:
        await until(lambda: transmitter.polls > 3)
        assert task.cause == "redis: away"
    assert (transmitter.acknowledged, transmitter.refused) == ([], {})
    async with polled(console, transmitter, database_url) as task:
        await until(lambda: transmitter.acknowledged)
        await until(lambda: not task.cause)


async def test_one_process_asks_and_another_takes_over(
    console: Receiving, transmitter: FakeTransmitter, database_url: str
) -> None:
    await connected(console, transmitter)
    async with polled(console, transmitter, database_url):
        await until(lambda: transmitter.polls)
        dead = Streams(console.streams._pool, "ml", seconds=0.3)
        assert await dead.taken() is None
    assert await dead.taken() is not None  # given back at once, and kept by a process that dies
    polls = transmitter.polls
    async with polled(console, transmitter, database_url):
        await until(lambda: transmitter.polls > polls)


async def test_a_stream_that_is_gone_and_a_token_that_is_void_are_replaced(
    console: Receiving, transmitter: FakeTransmitter, database_url: str
) -> None:
    await connected(console, transmitter)
    before = await console.streams.find()
    async with polled(console, transmitter, database_url) as task:
        await until(lambda: transmitter.polls)
        transmitter.valid_token = "after-a-not-before"
        transmitter.stream_ids.clear()
        await until(lambda: transmitter.created == 2)
        transmitter.status = 500
        await until(lambda: "status 500" in task.cause)
        transmitter.status = 200
        await until(lambda: not task.cause)
    after = await console.streams.find()
    assert before is not None
    assert after is not None
    assert before.id != after.id


async def test_who_disconnects_is_not_connected_again(console: Receiving, transmitter: FakeTransmitter) -> None:
    await connected(console, transmitter)
    gone = await console.streams.find()
    assert gone is not None
    await console.streams.keep(None)
    assert not await console.streams.replaced(gone, gone)
    assert await console.streams.find() is None


async def test_a_stream_that_is_paused_is_told(
    console: Receiving, transmitter: FakeTransmitter, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "_LOOK", 0.02)
    await connected(console, transmitter)
    transmitter.state = "paused"
    async with polled(console, transmitter, database_url) as task:
        await until(lambda: "the stream is paused" in task.cause)
        transmitter.state = "enabled"
        await until(lambda: not task.cause)


async def test_a_pushed_stream_that_is_gone_is_replaced(
    console: Receiving, transmitter: FakeTransmitter, database_url: str
) -> None:
    await console.stream_is_pushed()
    async with polled(console, transmitter, database_url):
        await until(lambda: transmitter.created)
    stream = await console.streams.find()
    assert stream is not None
    assert (stream.push, len(stream.authorization)) == ("https://x", 64)


@pytest.mark.parametrize(
    ("change", "secret", "said"),
    [
        ({"issuer": "https://other.example"}, "secret", "another issuer"),
        ({"configuration_endpoint": "https://evil.example/streams"}, "secret", "not in the realm"),
        ({"configuration_endpoint": f"{SSF.replace('/ml/', '/mlx/')}/configuration"}, "secret", "not in the realm"),
        ({}, "wrong", "no token for tollgate-console"),
    ],
)
async def test_no_token_goes_elsewhere(change: dict[str, str], secret: str, said: str) -> None:
    transmitter = FakeTransmitter()
    transmitter.metadata |= change
    with pytest.raises(Unavailable, match=said):
        await receiver_of(transmitter, secret).streams()
