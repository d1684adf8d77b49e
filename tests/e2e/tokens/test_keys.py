from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import jwt
import pytest

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.identity.api_tokens import unwrap
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.keys import LONGEST_STALE, OVERLAP, SigningKeys
from ext_authz.tokens.model import NotDone
from tests.e2e.tokens.world import ALICE, COMMAND, DAY, KEY, OTHER_KEY, World, policy_of, verified, wanted, world_of
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


@pytest.fixture
async def timed(database_url: str, redis_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[World]:
    """Alice has signed in, and time is ours."""
    async with world_of(database_url, redis_url, policy_of(tmp_path), clock=clock) as world:
        assert ALICE.identity is not None
        await world.service.signed_in(ALICE.identity)
        yield world


async def published(keys: SigningKeys) -> set[str]:
    return {key["kid"] for key in (await keys.jwks())["keys"]}


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(unwrap(token))["kid"])


async def test_replicas_that_start_at_once_make_one_key(database_url: str) -> None:
    await migrate(database_url)
    pools = [Pool(database_url, timeout=5) for _ in range(4)]
    await asyncio.gather(*(pool.open() for pool in pools))
    replicas = [SigningKeys(pool, Cipher(KEY), FakeClock()) for pool in pools]
    kids = await asyncio.gather(*(replica.signing() for replica in replicas))
    assert len(set(kids)) == 1
    assert await published(replicas[-1]) == set(kids)
    await asyncio.gather(*(pool.close() for pool in pools))


async def test_what_is_published_is_public_and_what_is_kept_is_encrypted(world: World) -> None:
    kid = await world.keys.signing()
    (key,) = (await world.keys.jwks())["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (key["kid"], key["alg"], key["use"]) == (kid, "ES256", "sig")
    ((sealed,),) = await world.sql("SELECT private_key FROM signing_keys")
    plain = Cipher(KEY).decrypt(sealed, f"signing key {kid}")
    assert plain not in sealed
    with pytest.raises(ConfigError, match="was changed"):
        Cipher(KEY).decrypt(sealed, "signing key another")
    with pytest.raises(ConfigError, match="was changed"):
        Cipher(KEY).decrypt(sealed[:-1] + bytes([sealed[-1] ^ 1]), f"signing key {kid}")


async def test_a_new_key_is_published_before_it_signs_and_the_old_one_while_its_tokens_live(
    timed: World, clock: FakeClock
) -> None:
    first = await timed.service.create(ALICE, wanted("first", lifetime=DAY))
    new = await timed.keys.rotate(COMMAND)
    assert await published(timed.keys) == {kid_of(first.token), new}
    clock.advance(OVERLAP.total_seconds() - 5)
    assert kid_of((await timed.service.create(ALICE, wanted("second"))).token) == kid_of(first.token)
    clock.advance(5)
    assert kid_of((await timed.service.create(ALICE, wanted("third"))).token) == new
    clock.advance(timedelta(hours=23).total_seconds())
    await verified(timed.keys, unwrap(first.token))
    clock.advance(timedelta(hours=3).total_seconds())
    assert await published(timed.keys) == {new}
    with pytest.raises(KeyError, match=kid_of(first.token)):
        await verified(timed.keys, unwrap(first.token))


async def test_a_withdrawn_key_is_gone_and_its_tokens_end(timed: World) -> None:
    first = await timed.service.create(ALICE, wanted("first"), idempotency_key="k")
    kid = kid_of(first.token)
    await timed.keys.withdraw(COMMAND, kid)
    with pytest.raises(NotDone, match="no key has this id"):
        await timed.keys.withdraw(COMMAND, kid)
    second = await timed.service.create(ALICE, wanted("second"))
    assert await published(timed.keys) == {kid_of(second.token)} != {kid}
    with pytest.raises(KeyError, match=kid_of(first.token)):
        await verified(timed.keys, unwrap(first.token))
    with pytest.raises(NotDone, match="has ended"):
        await timed.service.create(ALICE, wanted("first"), idempotency_key="k")
    (dead,) = (await timed.service.list(ALICE, text="first")).grants
    assert dead.state == "expired"
    assert await timed.sql("SELECT ends FROM owners") == [
        ({first.grant.tokens[0].jti: int(dead.expires_at.timestamp())},)
    ]
    again = await timed.service.renew(ALICE, dead.id, grace=timedelta())
    assert (again.grant.id, again.grant.state) == (dead.id, "active")


async def test_a_key_of_very_many_tokens_is_withdrawn_first_and_its_tokens_end_in_parts(timed: World) -> None:
    """In one transaction 100,000 tokens took longer than any answer of Postgres may: the key stayed published."""
    first = await timed.service.create(ALICE, wanted())
    kid, one = kid_of(first.token), "INSERT INTO tokens (jti, grant_id, kid, issued_at, expires_at, issued_by)"
    many = f"{one} SELECT n::text, %s, %s, now(), now() + interval '1 day', 'x' FROM generate_series(1, 600) AS n"
    await timed.sql(many, first.grant.id, kid)
    left = "SELECT count(*) FROM tokens WHERE ends_at IS NULL"
    parts = timed.keys._end_some  # what ends them fails

    async def fails(*_: object, **__: object) -> int:
        raise Unavailable("postgres", "late")

    timed.keys._end_some = fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await timed.keys.withdraw(COMMAND, kid)
    assert kid not in await published(timed.keys)
    assert await timed.sql(left) == [(601,)]
    timed.keys._end_some = parts  # type: ignore[method-assign]
    await timed.keys.withdraw(COMMAND, kid)
    assert await timed.sql(left) == [(0,)]
    assert (await timed.actions()).count("key.withdrawn") == 1


async def test_withdrawing_the_next_key_makes_another(timed: World, clock: FakeClock) -> None:
    kid = await timed.keys.signing()
    await timed.keys.withdraw(COMMAND, await timed.keys.rotate(COMMAND))
    clock.advance(1)
    assert await timed.keys.signing() not in {kid, ""}
    assert len(await published(timed.keys)) == 2
    assert await timed.actions() == ["key.rotated", "key.withdrawn"]
    with pytest.raises(NotDone, match="only administrators"):
        await timed.keys.rotate(ALICE)


async def test_another_key_of_the_settings_takes_over(database_url: str, redis_url: str, tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    async with world_of(database_url, redis_url, policy) as world:
        kid = await world.keys.signing()
    async with world_of(database_url, redis_url, policy, keys=OTHER_KEY) as world:
        with pytest.raises(ConfigError, match=f"signing key {kid}: no key in TOLLGATE_CONSOLE_KEYS decrypts this"):
            await world.keys.signing()
    async with world_of(database_url, redis_url, policy, keys=f"{OTHER_KEY}, {KEY}") as world:
        assert await world.keys.signing() == kid
        assert await world.keys.reencrypt(COMMAND) == 1
        assert await world.keys.reencrypt(COMMAND) == 0
    async with world_of(database_url, redis_url, policy, keys=OTHER_KEY) as world:
        assert await world.keys.sign({"a": 1}, kid)


async def test_without_postgres_the_known_keys_are_published_and_nothing_is_made(
    timed: World, clock: FakeClock
) -> None:
    token = await timed.keys.sign({"iss": "x"}, await timed.keys.signing())
    await timed.pool.close()
    clock.advance(10)
    assert len((await timed.keys.jwks())["keys"]) == 1
    assert await verified(timed.keys, token) == {"iss": "x"}
    with pytest.raises(Unavailable):
        await timed.service.create(ALICE, wanted())


async def test_what_postgres_has_not_confirmed_for_long_is_not_published(timed: World, clock: FakeClock) -> None:
    """One of the keys may have been withdrawn meanwhile: who fetches them decides what to do without an answer."""
    await timed.keys.signing()
    await timed.pool.close()
    clock.advance(LONGEST_STALE - 1)
    assert len((await timed.keys.jwks())["keys"]) == 1
    clock.advance(1)
    with pytest.raises(Unavailable):
        await timed.keys.jwks()
