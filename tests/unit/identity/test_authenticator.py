"""From the header to the caller: caches, several issuers, keys that come and go, and the refusals counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from ext_authz.decision import Reason
from ext_authz.errors import Unavailable
from ext_authz.identity import authenticator as module
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.keys import SigningKey
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import ABSENT, ALICE, EC256, ED25519, ISSUER, PSS, RSA, RSA_NEXT, TestKey, jwks
from tests.unit.identity.world import an_issuer, checked, metric, minted, refusal

OTHER = "https://kc.example/realms/other"


def bearer(token: str) -> str:
    return f"Bearer {token}"


async def test_a_good_token(authenticator: TokenAuthenticator) -> None:
    identity = await authenticator.authenticate((bearer(minted()),))
    assert identity.principal.subject == ALICE


async def test_verified_once(authenticator: TokenAuthenticator) -> None:
    authorization = bearer(minted())
    assert authenticator.cached(authorization) is None
    identity = await authenticator.authenticate((authorization,))
    assert authenticator.cached(authorization) is identity
    assert await authenticator.authenticate((authorization,)) is identity


async def test_two_headers_are_refused_even_when_both_are_known(authenticator: TokenAuthenticator) -> None:
    authorization = bearer(minted())
    await authenticator.authenticate((authorization,))
    refused = await refusal(authenticator, authorization, authorization)
    assert (refused.reason, refused.code) == (Reason.INVALID_REQUEST, "credential_repeated")


async def test_a_cached_token_expires(authenticator: TokenAuthenticator, clock: FakeClock) -> None:
    """With the leeway of the issuer, and not a moment more."""
    authorization = bearer(minted())
    await authenticator.authenticate((authorization,))
    clock.advance(300 + 30 - 0.5)
    assert authenticator.cached(authorization) is not None
    clock.advance(0.5)
    assert authenticator.cached(authorization) is None
    checked(await refusal(authenticator, authorization), "token_expired")


async def test_a_cached_token_dies_with_its_key(authenticator: TokenAuthenticator, endpoint: FakeJwks) -> None:
    authorization = bearer(minted())
    await authenticator.authenticate((authorization,))
    endpoint.publish(RSA_NEXT)
    await authenticator.authenticate((bearer(minted(key=RSA_NEXT)),))
    assert authenticator.cached(authorization) is None
    checked(await refusal(authenticator, authorization), "key_unknown")


async def test_a_rotation_fails_no_request(authenticator: TokenAuthenticator, endpoint: FakeJwks) -> None:
    for key in (RSA, RSA_NEXT, RSA):
        endpoint.publish(key)
        await authenticator.authenticate((bearer(minted(key=key)),))


SHARED = "one-kid"
SHARING = [TestKey(key.file, key.algorithm, key_id=SHARED) for key in (RSA, EC256, ED25519)]
PRIVATE = [*SHARING, TestKey("rsa", "PS256", key_id=SHARED), TestKey("rsa-next", "RS256", key_id=SHARED)]


@pytest.fixture
async def sharing(clock: FakeClock) -> AsyncIterator[TokenAuthenticator]:
    """Its issuer has one `kid` for keys of three types, and says of the RSA key not for which algorithm it is."""
    document = jwks(SHARING[0].jwk(alg=ABSENT), *SHARING[1:])
    algorithms = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
    endpoint = FakeJwks()
    endpoint.document = document
    authenticator = TokenAuthenticator([an_issuer(algorithms=algorithms)], fetch=endpoint, clock=clock, cache_size=0)
    await authenticator.start()
    yield authenticator
    await authenticator.stop()


@pytest.mark.parametrize("key", PRIVATE[:4], ids=lambda key: key.algorithm)
async def test_one_kid_for_several_types_of_keys(sharing: TokenAuthenticator, key: TestKey) -> None:
    assert (await sharing.authenticate((bearer(minted(key=key)),))).principal.client == "web-app"


@pytest.mark.parametrize("claimed", ["RS256", "PS256", "ES256", "EdDSA", "RS512", "HS256", "none"])
@pytest.mark.parametrize("key", PRIVATE, ids=lambda key: f"{key.file}-{key.algorithm}")
async def test_a_shared_kid_verifies_only_its_own_algorithm(
    sharing: TokenAuthenticator, key: TestKey, claimed: str
) -> None:
    """Signed with one algorithm, sent as another: only what was signed with the published key as it says passes."""
    token = bearer(minted(key=key, headers={"alg": claimed}))
    if key in PRIVATE[:4] and claimed == key.algorithm:
        await sharing.authenticate((token,))
        return
    refused = await refusal(sharing, token)
    assert refused.code == (
        "signature_invalid" if claimed in ("RS256", "PS256", "ES256", "EdDSA") else "algorithm_refused"
    )


async def test_a_key_of_another_algorithm_under_the_same_kid_is_looked_for(endpoint: FakeJwks) -> None:
    """A rotation may keep the `kid`."""
    issuer = an_issuer(algorithms=frozenset({"RS256", "PS256"}))
    authenticator = TokenAuthenticator([issuer], fetch=endpoint, clock=FakeClock(), cache_size=10)
    await authenticator.start()
    token = bearer(minted(key=PSS, headers={"kid": RSA.key_id}))
    assert "another algorithm" in checked(await refusal(authenticator, token), "key_unknown")
    endpoint.document = jwks(RSA, PSS.jwk(kid=RSA.key_id))
    await authenticator._key_sets[issuer.issuer].refresh()
    await authenticator.authenticate((token,))
    await authenticator.stop()


async def test_a_cached_token_outlives_an_outage_for_as_long_as_its_key(clock: FakeClock, endpoint: FakeJwks) -> None:
    issuer = an_issuer(jwks_max_stale=100)
    authenticator = TokenAuthenticator([issuer], fetch=endpoint, clock=clock, cache_size=10)
    await authenticator.start()
    authorization = bearer(minted())
    await authenticator.authenticate((authorization,))
    endpoint.down = True
    clock.advance(99)
    assert authenticator.cached(authorization) is not None
    clock.advance(1)
    assert authenticator.cached(authorization) is None
    with pytest.raises(Unavailable):
        await authenticator.authenticate((authorization,))
    await authenticator.stop()


async def test_the_cache_is_bounded(clock: FakeClock, endpoint: FakeJwks) -> None:
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=5)
    for n in range(8):
        await authenticator.authenticate((bearer(minted({"jti": str(n)})),))
    assert len(authenticator._verified) == 5
    await authenticator.stop()


async def test_the_longest_token_is_a_setting(clock: FakeClock, endpoint: FakeJwks) -> None:
    """200 roles: more than 8 kB, which was once the most."""
    token = bearer(minted({"realm_access": {"roles": [f"team-{n:03}-inference-on-every-model" for n in range(200)]}}))
    assert len(token) > 9000
    for max_token, taken in ((32_768, True), (len(token) - len("Bearer "), True), (len(token) - 8, False)):
        authenticator = TokenAuthenticator(
            [an_issuer()], fetch=endpoint, clock=clock, cache_size=10, cache_bytes=100_000, max_token=max_token
        )
        await authenticator.start()
        if taken:
            assert len((await authenticator.authenticate((token,))).roles) == 201
        else:
            assert str(max_token) in checked(await refusal(authenticator, token), "token_too_large")
        await authenticator.stop()


async def test_a_bad_token_is_verified_once(authenticator: TokenAuthenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = 0
    real: Callable[..., bool] = SigningKey.verifies

    def counting(*args: object) -> bool:
        nonlocal verified
        verified += 1
        return real(*args)

    monkeypatch.setattr(SigningKey, "verifies", counting)
    forged = bearer(minted(key=RSA_NEXT, headers={"kid": RSA.key_id}))
    for _ in range(5):
        checked(await refusal(authenticator, forged), "signature_invalid")
    assert verified == 1


async def test_what_may_become_good_is_not_remembered(
    authenticator: TokenAuthenticator, clock: FakeClock, endpoint: FakeJwks
) -> None:
    early, rotated = bearer(minted({"nbf": clock.now() + 31})), bearer(minted(key=RSA_NEXT))
    checked(await refusal(authenticator, early), "token_not_yet_valid")
    clock.advance(1)
    await authenticator.authenticate((early,))

    checked(await refusal(authenticator, rotated), "key_unknown")
    endpoint.publish(RSA, RSA_NEXT)
    await authenticator._key_sets[an_issuer().issuer].refresh()
    await authenticator.authenticate((rotated,))


async def test_an_outage_is_not_remembered(clock: FakeClock, endpoint: FakeJwks) -> None:
    endpoint.down = True
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=10)
    await authenticator.start()
    assert authenticator.up() == {"jwks:ml": False}
    authorization = bearer(minted())
    with pytest.raises(Unavailable):
        await authenticator.authenticate((authorization,))
    endpoint.down = False
    clock.advance(10)
    await authenticator.authenticate((authorization,))
    assert authenticator.up() == {"jwks:ml": True}
    await authenticator.stop()


async def test_several_issuers_each_with_its_own_keys_and_rules(clock: FakeClock) -> None:
    documents = {"https://a": FakeJwks(RSA), "https://b": FakeJwks(EC256)}

    async def fetch(url: str) -> bytes:
        return await documents[url](url)

    issuers = [
        an_issuer(name="a", jwks_url="https://a"),
        an_issuer(name="b", jwks_url="https://b", issuer=OTHER, algorithms=frozenset({"ES256"})),
    ]
    authenticator = TokenAuthenticator(issuers, fetch=fetch, clock=clock, cache_size=10)
    await authenticator.start()
    assert authenticator.up() == {"jwks:a": True, "jwks:b": True}
    assert (await authenticator.authenticate((bearer(minted()),))).issuer_name == "a"
    assert (await authenticator.authenticate((bearer(minted({"iss": OTHER}, key=EC256)),))).issuer_name == "b"
    # a key of one issuer vouches for nothing that the other says
    checked(await refusal(authenticator, bearer(minted({"iss": OTHER}))), "algorithm_refused")
    other_key = minted({"iss": OTHER}, key=EC256, headers={"kid": RSA.key_id})
    checked(await refusal(authenticator, bearer(other_key)), "key_unknown")
    await authenticator.stop()


async def test_one_issuer_down_costs_its_own_tokens_only(clock: FakeClock) -> None:
    up, down = FakeJwks(RSA), FakeJwks(RSA)
    down.down = True

    async def fetch(url: str) -> bytes:
        return await (up if url == "up" else down)(url)

    issuers = [an_issuer(name="a", jwks_url="up"), an_issuer(name="b", jwks_url="down", issuer=OTHER)]
    authenticator = TokenAuthenticator(issuers, fetch=fetch, clock=clock, cache_size=10)
    await authenticator.start()
    assert authenticator.up() == {"jwks:a": True, "jwks:b": False}
    await authenticator.authenticate((bearer(minted()),))
    with pytest.raises(Unavailable):
        await authenticator.authenticate((bearer(minted({"iss": OTHER})),))
    await authenticator.stop()


async def test_the_log_names_the_issuer(authenticator: TokenAuthenticator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for issuer in (ISSUER + "/", "https://evil\nexample/" + "x" * 5000, ISSUER + "/"):
            refused = await refusal(authenticator, bearer(minted({"iss": issuer})))
            assert issuer[:15] not in refused.detail, "the caller is not told"
    slash, other = [record.__dict__ for record in caplog.records if record.message == "issuer unknown"]
    assert (slash["issuer"], slash["detail"]) == (
        ISSUER + "/",
        f"differs from {ISSUER} in a trailing slash or in upper case",
    )
    assert other["issuer"] == ("https://evil?example/" + "x" * 200)[:200]
    assert "detail" not in other


async def test_nothing_is_fetched_for_a_token_that_cannot_pass(
    authenticator: TokenAuthenticator, endpoint: FakeJwks
) -> None:
    unknown = {"kid": "made-up"}
    checked(await refusal(authenticator, bearer(minted({"iss": "x"}, headers=unknown))), "issuer_unknown")
    checked(await refusal(authenticator, bearer(minted(headers={**unknown, "alg": "HS256"}))), "algorithm_refused")
    checked(await refusal(authenticator, bearer(minted(headers={**unknown, "typ": "JWE"}))), "token_type")
    checked(await refusal(authenticator, bearer(minted({"iss": ABSENT}, headers=unknown))), "claim_missing")
    assert endpoint.asked == 1


async def test_a_bug_is_a_refusal_and_quotes_no_token(
    authenticator: TokenAuthenticator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str, _max_token: int) -> None:
        raise RecursionError(f"while reading {text}")

    monkeypatch.setattr(module, "read", broken)
    token = minted()
    checked(await refusal(authenticator, bearer(token)), "token_malformed")
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.__dict__["error"] == "RecursionError"
    assert token not in caplog.text
    assert token[:20] not in str(record.__dict__)


async def test_refusals_and_lookups_are_counted(clock: FakeClock, endpoint: FakeJwks) -> None:
    def counts() -> list[float]:
        lookups = [metric("tollgate_token_cache_lookups_total", result=result) for result in ("hit", "miss", "bad")]
        codes = ("token_expired", "credential_missing", "token_malformed")
        return lookups + [metric("tollgate_tokens_refused_total", code=code) for code in codes]

    before = counts()
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=10)
    good, expired = bearer(minted()), bearer(minted({"exp": clock.now() - 60}))
    await authenticator.authenticate((good,))
    for _ in range(3):
        authenticator.cached(good)
    await refusal(authenticator)
    await refusal(authenticator, bearer("junk"))
    for _ in range(3):
        await refusal(authenticator, expired)
    await authenticator.stop()
    await authenticator.stop()  # what was handed over is not handed over again
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [3, 3, 2, 3, 1, 1]


async def test_disabled_keys_disappear_in_the_background(
    clock: FakeClock, endpoint: FakeJwks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UPKEEP_SECONDS", 0)
    misses = metric("tollgate_token_cache_lookups_total", result="miss")
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=10)
    await authenticator.start()
    authorization = bearer(minted())
    await authenticator.authenticate((authorization,))
    endpoint.publish(RSA_NEXT)
    endpoint.arrived.clear()
    clock.advance(299)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not endpoint.arrived.is_set()
    assert metric("tollgate_token_cache_lookups_total", result="miss") == misses + 1
    clock.advance(1)
    await endpoint.arrived.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert authenticator.cached(authorization) is None
    await authenticator.stop()
    assert authenticator._upkeep is not None
    assert authenticator._upkeep.cancelled()


async def test_stopping_ends_a_fetch_that_hangs(clock: FakeClock, endpoint: FakeJwks) -> None:
    endpoint.answering.clear()
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=10)
    waiting = asyncio.create_task(authenticator.authenticate((bearer(minted()),)))
    await endpoint.arrived.wait()
    await authenticator.stop()
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await waiting
