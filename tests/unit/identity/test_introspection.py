"""Tokens that do not say everything: what the issuer says about them, verified like the claims of a token."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from ext_authz.decision import Request
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Binding, Identity, RefusedToken
from ext_authz.identity.introspection import MAX_AT_ONCE, MAX_OPAQUE
from ext_authz.policy.issuers import Introspection, Issuer
from tests.dpop import Holder
from tests.fakes import FakeClock, FakeJwks, FakeReplays
from tests.tokens import ABSENT, ALICE, ISSUER, RSA_NEXT, keycloak_claims, to_json, without_absent
from tests.unit.identity.world import NOW, an_issuer, checked, metric, minted

SECRET = "no-secret-at-all"
OPAQUE = "1f65761e.opaque"
RULES = Introspection(f"{ISSUER}/introspect", "triton-gateway", SecretStr(SECRET), opaque=True, lightweight=True)
LIGHT = {
    **dict.fromkeys(("aud", "sub", "realm_access", "resource_access", "auth_time", "acr"), ABSENT),
    "jti": "onltro:9b152939-14fe-fb26-9dcb-2c89c1a3b60e",
}
"""What differs from a usual token: Keycloak's has little more than times, ids and the client."""


class Issuers:
    """The endpoint, as an `introspection.Ask`: knows tokens, fails, hangs, and counts who asks."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.body: bytes | None = None
        """Answered to everything."""
        self.failure: Exception | None = None
        self.asked: list[tuple[str, Mapping[str, str], tuple[str, str]]] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.arrived = asyncio.Event()

    def say(self, token: str, **changes: object) -> str:
        """As Keycloak does of a token of alice's."""
        extra = {"active": True, "username": "alice", "client_id": "web-app", "token_type": "Bearer"}
        self.known[token] = without_absent({**keycloak_claims(NOW), **extra, **changes})
        return token

    async def __call__(self, url: str, form: Mapping[str, str], client: tuple[str, str]) -> bytes:
        self.asked.append((url, form, client))
        self.arrived.set()
        await self.answering.wait()
        if self.failure:
            raise self.failure
        return self.body if self.body is not None else to_json(self.known.get(form["token"], {"active": False}))


class World:
    def __init__(self, issuer: Issuer, endpoint: FakeJwks, clock: FakeClock) -> None:
        self.clock = clock
        self.issuers = Issuers()
        self.authenticator = TokenAuthenticator(
            [issuer], fetch=endpoint, clock=clock, cache_size=100, ask=self.issuers, replays=FakeReplays(clock)
        )

    async def call(self, token: str) -> Identity:
        return await self.authenticator.authenticate((f"Bearer {token}",))

    async def refusal(self, token: str) -> Denied:
        with pytest.raises(Denied) as refused:
            await self.call(token)
        return refused.value

    async def outage(self, token: str) -> str:
        with pytest.raises(Unavailable) as outage:
            await self.call(token)
        assert outage.value.dependency == "introspection"
        return outage.value.detail

    def light(self, claims: Mapping[str, object] | None = None, **said: object) -> str:
        """A lightweight token, and what the issuer says about it."""
        token = minted({**LIGHT, **(claims or {})})
        about: dict[str, object] = {"jti": LIGHT["jti"], **said}
        return self.issuers.say(token, **about)


@pytest.fixture
async def world(clock: FakeClock, endpoint: FakeJwks) -> AsyncIterator[World]:
    world = World(an_issuer(introspection=RULES, cnf="verify"), endpoint, clock)
    await world.authenticator.start()
    yield world
    await world.authenticator.stop()


async def test_a_lightweight_token(world: World) -> None:
    identity = await world.call(world.light())
    assert (identity.principal.subject, identity.principal.client) == (ALICE, "web-app")
    assert "infer" in identity.roles
    ((url, form, client),) = world.issuers.asked
    assert (url, form["token_type_hint"]) == (RULES.url, "access_token")
    assert client == ("triton-gateway", SECRET)


async def test_an_opaque_token(world: World) -> None:
    identity = await world.call(world.issuers.say(OPAQUE))
    assert (identity.principal.subject, identity.username) == (ALICE, "alice")
    assert identity.issuer_name == "ml"


async def test_an_answer_is_believed_for_a_while(world: World) -> None:
    token = world.light()
    first = await world.call(token)
    world.clock.advance(9.5)
    assert await world.call(token) is first
    assert len(world.issuers.asked) == 1
    world.issuers.known.clear()
    world.clock.advance(0.5)
    checked(await world.refusal(token), "token_inactive")
    assert len(world.issuers.asked) == 2


async def test_never_beyond_the_end_of_the_token(clock: FakeClock, endpoint: FakeJwks) -> None:
    rules = Introspection(RULES.url, "c", SecretStr(SECRET), opaque=True, cache=300)
    world = World(an_issuer(introspection=rules, leeway=0), endpoint, clock)
    token = world.issuers.say(OPAQUE, exp=NOW + 100)
    await world.call(token)
    clock.advance(100)
    checked(await world.refusal(token), "token_expired")


async def test_a_token_that_is_not_active(world: World) -> None:
    """Invented ones are remembered for a moment, so that repeating one costs the issuer nothing."""
    for _ in range(3):
        refused = await world.refusal(OPAQUE)
        assert "get a new one" in checked(refused, "token_inactive")
        assert OPAQUE not in refused.detail
    assert len(world.issuers.asked) == 1
    light = minted(LIGHT)
    refused = await world.refusal(light)
    checked(refused, "token_inactive")
    assert isinstance(refused, RefusedToken)
    assert refused.identity.principal.client == "web-app", "what its issuer signed"


async def test_the_signature_comes_first(world: World) -> None:
    """An invented lightweight token causes no question."""
    checked(await world.refusal(minted(LIGHT, key=RSA_NEXT)), "key_unknown")
    forged = minted(LIGHT, key=RSA_NEXT, headers={"kid": "kid-rsa-RS256"})
    checked(await world.refusal(forged), "signature_invalid")
    assert world.issuers.asked == []


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "inactive": ({"active": False}, "token_inactive"),
    "another issuer": ({"iss": "https://kc.example/realms/other"}, "issuer_unknown"),
    "another audience": ({"aud": "other"}, "audience_mismatch"),
    "no audience": ({"aud": ABSENT}, "claim_missing"),
    "no end": ({"exp": ABSENT}, "claim_missing"),
    "no beginning": ({"iat": ABSENT}, "claim_missing"),
    "expired": ({"exp": NOW - 31, "iat": NOW - 100}, "token_expired"),
    "a refresh token": ({"typ": "Refresh"}, "token_type"),
    "a type that nobody knows": ({"typ": ABSENT, "token_type": "mac"}, "token_type"),
    "no type": ({"typ": ABSENT, "token_type": ABSENT}, "claim_missing"),
    "a number as type": ({"typ": ABSENT, "token_type": 7}, "claim_missing"),
    "a user without a subject": ({"sub": ABSENT}, "claim_invalid"),
    "a user whose subject is null": ({"sub": None}, "claim_invalid"),
    "a token of another client": ({"azp": "else", "client_id": "else"}, "client_refused"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_an_answer_is_verified_like_a_token(clock: FakeClock, endpoint: FakeJwks, case: str) -> None:
    said, code = WRONG[case]
    world = World(an_issuer(introspection=RULES, clients=frozenset({"web-app"})), endpoint, clock)
    checked(await world.refusal(world.issuers.say(OPAQUE, **said)), code)


@pytest.mark.parametrize(
    "other",
    [
        {"jti": "onltro:x"},
        {"iss": "https://x"},
        {"azp": "b"},
        {"sid": "b"},
        {"exp": NOW + 301},
        {"iat": NOW - 1},
        {"sub": "b"},
    ],
)
async def test_an_answer_about_another_token(world: World, other: dict[str, object]) -> None:
    """What the issuer signed holds."""
    token = world.light({"sub": ALICE}, **other)
    assert next(iter(other)) in checked(await world.refusal(token), "claim_invalid")


async def test_what_an_opaque_token_need_not_say(world: World) -> None:
    """RFC 7662 section 2.2: all but `active` is optional. It is revoked by an id that is made of it."""
    token = world.issuers.say(OPAQUE, jti=ABSENT, iss=ABSENT, typ=ABSENT, token_type="bearer")
    identity = await world.call(token)
    assert identity.principal.issuer == ISSUER
    assert identity.principal.token_id.startswith("opaque:")
    assert token not in identity.principal.token_id
    other = world.issuers.say("another", jti=ABSENT, preferred_username=ABSENT, sid=ABSENT)
    found = await world.call(other)
    assert found.principal.token_id != identity.principal.token_id
    assert found.username == "alice"


async def test_an_opaque_token_of_a_client(world: World) -> None:
    token = world.issuers.say(OPAQUE, sub=ABSENT, username=ABSENT, preferred_username=ABSENT)
    assert (await world.call(token)).principal.subject == "web-app"


async def test_a_token_that_is_bound_to_a_key(world: World) -> None:
    holder = Holder()
    token = world.issuers.say(OPAQUE, typ=ABSENT, token_type="DPoP", cnf=holder.cnf)
    checked(await world.refusal(token), "token_bound")
    proof = holder.proof("POST", "https://models.example/x", token, now=NOW)
    request = Request("POST", "models.example", "/x", scheme="https", headers={"dpop": proof})
    identity = await world.authenticator.authenticate((f"DPoP {token}",), 0, request)
    assert identity.binding == Binding(key=holder.thumbprint)


@pytest.mark.parametrize("token", ["a b", "é", "x" * (MAX_OPAQUE + 1), "=x", "a,b", "a\ud800"])
async def test_what_is_no_token_at_all(world: World, token: str) -> None:
    refused = await world.refusal(token)
    assert refused.code in ("token_malformed", "credential_repeated")
    assert world.issuers.asked == []


@pytest.mark.parametrize("rules", [None, Introspection(RULES.url, "c", SecretStr("s"))])
async def test_only_where_the_policy_says_so(clock: FakeClock, endpoint: FakeJwks, rules: Introspection | None) -> None:
    world = World(an_issuer(introspection=rules), endpoint, clock)
    assert "introspection" in checked(await world.refusal(world.light()), "token_lightweight")
    checked(await world.refusal(world.issuers.say(OPAQUE)), "token_malformed")
    assert world.issuers.asked == []


async def test_without_a_way_to_ask(clock: FakeClock, endpoint: FakeJwks) -> None:
    authenticator = TokenAuthenticator([an_issuer(introspection=RULES)], fetch=endpoint, clock=clock, cache_size=1)
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate((f"Bearer {minted(LIGHT)}",))
    assert refused.value.code == "token_lightweight"


async def test_the_same_token_at_the_same_time_is_one_question(world: World) -> None:
    world.issuers.answering.clear()
    token = world.light()
    calls = [asyncio.create_task(world.call(token)) for _ in range(5)]
    await world.issuers.arrived.wait()
    calls[0].cancel()
    world.issuers.answering.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {found.principal.subject for found in answers[1:] if isinstance(found, Identity)} == {ALICE}
    assert len(world.issuers.asked) == 1


async def test_a_bound_of_questions(world: World) -> None:
    world.issuers.answering.clear()
    calls = [asyncio.create_task(world.call(f"invented-{number}")) for number in range(MAX_AT_ONCE)]
    while len(world.issuers.asked) < MAX_AT_ONCE:
        world.issuers.arrived.clear()
        await world.issuers.arrived.wait()
    assert str(MAX_AT_ONCE) in await world.outage("one-more")
    world.issuers.answering.set()
    assert all(isinstance(refused, Denied) for refused in await asyncio.gather(*calls, return_exceptions=True))
    checked(await world.refusal("one-more"), "token_inactive")


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"{}", b'{"active": 1}', b'{"active": "true"}', b'{"active": true, "active": false}']
)
async def test_an_answer_that_is_none(world: World, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The token may be good: an outage, and never a refusal."""
    world.issuers.body = body
    await world.outage(OPAQUE)
    assert "introspection failed" in caplog.text


async def test_the_issuer_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Each cause is logged once, without the token and the secret."""
    before = metric("tollgate_introspections_total", issuer="ml", result="error")
    token = world.light()
    with caplog.at_level(logging.INFO):
        for failure in (ValueError("status 401"), RuntimeError(f"{token} {SECRET}"), RuntimeError("again")):
            world.issuers.failure = failure
            await world.outage(token)
    logged = [record.__dict__["error"] for record in caplog.records if record.message == "introspection failed"]
    assert logged == [f"{RULES.url}: status 401", f"{RULES.url}: RuntimeError"]
    assert SECRET not in str([record.__dict__ for record in caplog.records])
    assert metric("tollgate_introspections_total", issuer="ml", result="error") == before + 3
    world.issuers.failure = None
    await world.call(token)


async def test_the_end_of_the_worker(clock: FakeClock, endpoint: FakeJwks) -> None:
    world = World(an_issuer(introspection=RULES), endpoint, clock)
    await world.authenticator.start()
    world.issuers.answering.clear()
    call = asyncio.create_task(world.call(OPAQUE))
    await world.issuers.arrived.wait()
    await world.authenticator.stop()
    with pytest.raises(Unavailable):
        await call


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(RULES)
    assert json.dumps(str(RULES)).count("*") > 0
