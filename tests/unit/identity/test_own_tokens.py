"""API tokens of our own: whose they are, what is left of them, and what is none."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import pytest

from ext_authz.decision import Reason
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.api_tokens import MANAGE_TOKENS, PREFIX, unwrap, wrap
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity, RefusedToken
from tests.fakes import FakeClock, FakeJwks, FakeOwners
from tests.own_tokens import DAY, GRANT, OWN_ISSUER, own_jws, own_token, own_tokens, standing
from tests.tokens import ABSENT, ALICE, EC256, ED25519, ISSUER, RSA, TestKey, b64, mint, to_json
from tests.unit.identity.world import NOW, an_issuer, checked, metric, refusal


@pytest.fixture
def owners() -> FakeOwners:
    found = FakeOwners()
    found.put(ALICE, standing("infer", "admin"))
    return found


@pytest.fixture
def keys() -> FakeJwks:
    """Of both issuers: tokens say which."""
    return FakeJwks(RSA, EC256)


@pytest.fixture
async def door(clock: FakeClock, keys: FakeJwks, owners: FakeOwners) -> AsyncIterator[TokenAuthenticator]:
    made = TokenAuthenticator(
        [an_issuer()], fetch=keys, clock=clock, cache_size=100, tokens=own_tokens(), owners=owners
    )
    await made.start()
    yield made
    await made.stop()


def bearer(token: str) -> str:
    return f"Bearer {token}"


async def identified(door: TokenAuthenticator, token: str) -> Identity:
    return await door.authenticate((bearer(token),))


def own(claims: dict[str, object] | None = None, **tollgate: object) -> str:
    return own_token(claims, tollgate=tollgate, now=NOW)


async def test_it_is_its_owner(door: TokenAuthenticator) -> None:
    found = await identified(door, own())
    who = found.principal
    assert (who.issuer, found.issuer_name, who.subject, who.client) == (ISSUER, "ml", ALICE, "tollgate:nightly")
    assert (who.roles, found.session, found.grant, who.token_id) == (("admin", "infer"), GRANT, GRANT, "own-1")
    assert (found.scopes, found.groups, found.claims) == (
        frozenset({"models"}),
        frozenset({"/staff"}),
        {"plan": "gold"},
    )
    assert (found.username, found.models, found.expires_at) == ("alice", None, NOW + DAY)


async def test_it_is_limited_to_models_and_roles(door: TokenAuthenticator) -> None:
    found = await identified(door, own(models=["sentiment", "llama-*"], roles=["infer", "root"]))
    assert found.roles == frozenset({"infer"})
    assert found.principal.roles == ("infer",)
    assert found.models is not None
    assert [name in found.models for name in ("sentiment", "llama-7b", "llama-*", "*", "cancer")] == [
        *(True, True, True, False, False)
    ]
    assert found.owner is not None
    assert (found.owner.roles, found.owner.models) == (frozenset({"infer", "admin"}), None)
    assert found.owner.scopes == frozenset({"models", "openid"})


async def test_with_all_that_its_owner_has_there_is_no_second_one(door: TokenAuthenticator) -> None:
    assert (await identified(door, own({"scope": "models openid more"}))).owner is None


async def test_scopes_that_only_we_give(door: TokenAuthenticator) -> None:
    """Every owner has them; a token has those that it says."""
    found = await identified(door, own({"scope": "models openid tollgate:tokens"}))
    assert found.scopes == frozenset({"models", "openid", MANAGE_TOKENS})
    assert found.owner is None


async def test_no_models_are_none(door: TokenAuthenticator) -> None:
    found = await identified(door, own(models=[]))
    assert found.models is not None
    assert "sentiment" not in found.models
    assert str(found.models) == "none"


async def test_what_its_owner_lost_is_lost(door: TokenAuthenticator, owners: FakeOwners) -> None:
    owners.put(ALICE, standing("infer", "admin", now=("infer", "new")))
    found = await identified(door, own())
    assert found.roles == frozenset({"infer"})
    assert found.owner is not None
    assert found.owner.roles == frozenset({"infer", "new"})


async def test_a_sign_in_after_the_last_answer_is_believed(door: TokenAuthenticator, owners: FakeOwners) -> None:
    owners.put(ALICE, standing("infer", "new", now=("infer",), signed_in_at=3.0))
    assert (await identified(door, own())).roles == frozenset({"infer", "new"})


async def test_a_service_account(door: TokenAuthenticator, owners: FakeOwners) -> None:
    account = standing("infer", service=True, signed_in_at=0.0, username="service:ci")
    owners.put("service:ci", account)
    found = await identified(door, own({"sub": "service:ci"}, kind="service"))
    assert (found.principal.subject, found.roles) == ("service:ci", frozenset({"infer"}))


@pytest.mark.parametrize("kind", ["user", "service"])
async def test_a_person_and_a_service_account_are_told_apart(
    door: TokenAuthenticator, owners: FakeOwners, kind: str
) -> None:
    owners.put(ALICE, standing("infer", service=kind == "user"))
    checked(await refusal(door, bearer(own(kind=kind))), "owner_unknown")


async def test_a_changed_owner_ends_what_is_remembered(door: TokenAuthenticator, owners: FakeOwners) -> None:
    token, other = own(), own({"sub": "bob", "jti": "own-2"})
    owners.put("bob", standing("infer"))
    await identified(door, token)
    bob = await identified(door, other)
    owners.put(ALICE, standing("infer", "admin", now=("infer",)))
    assert door.cached(bearer(token)) is None
    assert door.cached(bearer(other)) is bob
    assert (await identified(door, token)).roles == frozenset({"infer"})


async def test_a_disabled_owner(door: TokenAuthenticator, owners: FakeOwners) -> None:
    token = own()
    owners.put(ALICE, standing("infer", enabled=False))
    refused = await refusal(door, bearer(token))
    checked(refused, "user_disabled")
    assert isinstance(refused, RefusedToken)
    assert (refused.identity.principal.issuer, refused.identity.principal.subject) == (ISSUER, ALICE)
    owners.put(ALICE, standing("infer"))
    assert (await identified(door, token)).roles == frozenset({"infer"})


async def test_an_owner_who_came_just_now(door: TokenAuthenticator, owners: FakeOwners) -> None:
    token = own({"sub": "bob"})
    checked(await refusal(door, bearer(token)), "owner_unknown")
    owners.arriving["ml:bob"] = standing("infer")
    assert (await identified(door, token)).principal.subject == "bob"


async def test_while_nothing_is_known_of_owners(door: TokenAuthenticator, owners: FakeOwners) -> None:
    owners.down = True
    for token in (own(), mint(now=NOW)):
        with pytest.raises(Unavailable, match="postgres"):
            await identified(door, token)


async def test_a_replaced_token_ends_to_the_second(
    door: TokenAuthenticator, owners: FakeOwners, clock: FakeClock
) -> None:
    token = own()
    await identified(door, token)
    owners.put(ALICE, standing("infer", ends={"own-1": NOW + 60}))
    assert (await identified(door, token)).expires_at == NOW + 60
    clock.advance(59.5)
    assert door.cached(bearer(token)) is not None
    clock.advance(0.5)
    assert door.cached(bearer(token)) is None
    assert "newer" in checked(await refusal(door, bearer(token)), "token_expired")


async def test_it_expires(door: TokenAuthenticator, clock: FakeClock) -> None:
    token = own()
    await identified(door, token)
    clock.advance(DAY + 30)
    refused = await refusal(door, bearer(token))
    checked(refused, "token_expired")
    assert isinstance(refused, RefusedToken)
    assert (refused.identity.issuer_name, refused.identity.session) == ("ml", GRANT)


async def test_it_ends_with_its_key(door: TokenAuthenticator, keys: FakeJwks) -> None:
    token = own()
    await identified(door, token)
    keys.publish(RSA, NEXT)
    await identified(door, own_token(key=NEXT, now=NOW))
    assert door.cached(bearer(token)) is None
    checked(await refusal(door, bearer(token)), "key_unknown")


async def test_its_keys_are_a_dependency_of_their_own(door: TokenAuthenticator) -> None:
    assert door.up() == {"jwks:ml": True, "jwks:tollgate": True}
    assert door.lost() == {"jwks:ml": None, "jwks:tollgate": None}


async def test_without_the_section_in_the_policy(authenticator: TokenAuthenticator) -> None:
    assert "API tokens" in checked(await refusal(authenticator, bearer(own())), "issuer_unknown")


def flipped(token: str, at: int) -> str:
    return f"{token[:at]}{'A' if token[at] != 'A' else 'B'}{token[at + 1 :]}"


def resigned(header: dict[str, object]) -> str:
    """Another header, with the signature of a good token."""
    _, claims, signature = own_jws(now=NOW).split(".")
    return wrap(f"{b64(to_json(header))}.{claims}.{signature}")


NEXT = TestKey("ec-p256", "ES256", key_id="next")
THIEF = TestKey("ec-p256", "ES256", key_id=RSA.key_id)


def posing() -> str:
    return own_token(key=RSA, headers={"alg": "ES256", "kid": EC256.key_id}, now=NOW)


FORGED: dict[str, tuple[str, Callable[[], str]]] = {
    "cut short": ("token_malformed", lambda: own()[:-1]),
    "one character changed": ("token_malformed", lambda: flipped(own(), 60)),
    "another checksum": ("token_malformed", lambda: "tgl_000000~" + unwrap(own())),
    "without a checksum": ("token_malformed", lambda: PREFIX + unwrap(own())),
    "the prefix alone": ("token_malformed", lambda: PREFIX),
    "the prefix twice": ("token_malformed", lambda: PREFIX + own()),
    "the prefix in upper case": ("token_malformed", lambda: own().replace(PREFIX, "TGL_")),
    "with more behind it": ("token_malformed", lambda: own() + "~"),
    "without its prefix": ("issuer_unknown", lambda: unwrap(own())),
    "a token of the identity provider, wrapped": ("issuer_unknown", lambda: wrap(mint(now=NOW))),
    "claims of the identity provider, our key": ("issuer_unknown", lambda: wrap(mint(key=EC256, now=NOW))),
    "our claims, the key of the identity provider": ("algorithm_refused", lambda: own_token(key=RSA, now=NOW)),
    "that key, and our algorithm": ("signature_invalid", posing),
    "a key with the id of another": ("key_unknown", lambda: own_token(key=THIEF, now=NOW)),
    "an unknown key": ("key_unknown", lambda: own_token(headers={"kid": "x"}, now=NOW)),
    "another algorithm": ("algorithm_refused", lambda: own_token(key=ED25519, now=NOW)),
    "no algorithm": ("algorithm_refused", lambda: resigned({"alg": "none", "typ": "at+jwt", "kid": EC256.key_id})),
    "a key of its own": ("header_refused", lambda: own_token(headers={"jwk": EC256.jwk()}, now=NOW)),
    "an address of keys": ("header_refused", lambda: own_token(headers={"jku": "https://x.example"}, now=NOW)),
    "another type": ("token_type", lambda: own_token(headers={"typ": "JWT"}, now=NOW)),
    "another issuer": ("issuer_unknown", lambda: own({"iss": OWN_ISSUER + "/"})),
    "an ID token": ("token_type", lambda: own({"typ": "ID"})),
    "for others": ("audience_mismatch", lambda: own({"aud": "account"})),
    "bound to a key": ("token_bound", lambda: own({"cnf": {"jkt": "x"}})),
    "without an end": ("claim_missing", lambda: own({"exp": ABSENT})),
    "without a beginning": ("claim_missing", lambda: own({"iat": ABSENT})),
    "from the future": ("token_not_yet_valid", lambda: own_token(now=NOW + 60)),
    "living for ever": ("claim_invalid", lambda: own({"exp": NOW + 91 * DAY})),
    "without an id": ("claim_missing", lambda: own({"jti": ABSENT})),
    "without a subject": ("claim_missing", lambda: own({"sub": ABSENT})),
    "without a grant": ("claim_missing", lambda: own({"sid": ABSENT})),
    "an empty grant": ("claim_missing", lambda: own({"sid": ""})),
    "without a client": ("claim_missing", lambda: own({"azp": ABSENT})),
    "a client of the identity provider": ("claim_invalid", lambda: own({"azp": "web-app"})),
    "a client without a name": ("claim_invalid", lambda: own({"azp": "tollgate:"})),
    "without scopes": ("claim_missing", lambda: own({"scope": ABSENT})),
    "scopes in another shape": ("claim_missing", lambda: own({"scope": ["models"]})),
    "without an owner": ("claim_invalid", lambda: own({"tollgate": ABSENT})),
    "an owner that is null": ("claim_invalid", lambda: own({"tollgate": None})),
    "an owner in another shape": ("claim_invalid", lambda: own({"tollgate": ["ml"]})),
    "an owner without an issuer": ("claim_invalid", lambda: own(issuer=ABSENT)),
    "an owner of no kind": ("claim_invalid", lambda: own(kind=ABSENT)),
    "an owner of another kind": ("claim_invalid", lambda: own(kind="admin")),
    "an issuer in another shape": ("claim_invalid", lambda: own(issuer=7)),
    "models that are null": ("claim_invalid", lambda: own(models=None)),
    "models in another shape": ("claim_invalid", lambda: own(models="*")),
    "a model that cannot be": ("claim_invalid", lambda: own(models=["a/b"])),
    "roles that are null": ("claim_invalid", lambda: own(roles=None)),
    "a role in another shape": ("claim_invalid", lambda: own(roles=[7])),
    "a role that cannot be": ("claim_invalid", lambda: own(roles=["a\nb"])),
    "something more": ("claim_invalid", lambda: own(scopes=["admin"])),
    "an issuer that the policy does not have": ("owner_unknown", lambda: own(issuer="other")),
    "ourselves as the owner's issuer": ("owner_unknown", lambda: own(issuer="tollgate")),
    "an owner nobody knows": ("owner_unknown", lambda: own({"sub": "mallory"})),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
async def test_what_is_none(door: TokenAuthenticator, case: str) -> None:
    code, made = FORGED[case]
    token = made()
    detail = checked(await refusal(door, bearer(token)), code)
    assert token == PREFIX or token not in detail
    assert door.cached(bearer(token)) is None


async def test_one_that_was_not_copied_whole_is_told_apart(door: TokenAuthenticator) -> None:
    details = [(await refusal(door, bearer(token))).detail for token in (flipped(own(), 60), own()[:-1], own()[:9])]
    assert all("not copied whole" in detail for detail in details[:2])
    assert "three segments" in details[2]


async def test_a_token_of_another_issuer_is_none_of_ours_under_its_own_key() -> None:
    """An identity provider that publishes a key of ours, or uses our address, gets nothing by it."""
    clock, owners = FakeClock(), FakeOwners()
    owners.put(ALICE, standing("infer"))
    twin = an_issuer(algorithms=frozenset({"ES256"}))
    door = TokenAuthenticator(
        [twin], fetch=FakeJwks(EC256), clock=clock, cache_size=9, tokens=own_tokens(), owners=owners
    )
    await door.start()
    try:
        checked(
            await refusal(door, bearer(wrap(mint(key=EC256, headers={"typ": "at+jwt"}, now=NOW)))), "issuer_unknown"
        )
        checked(await refusal(door, bearer(own_jws(now=NOW))), "issuer_unknown")
    finally:
        await door.stop()


async def test_refusals_are_counted(door: TokenAuthenticator) -> None:
    before = metric("tollgate_tokens_refused_total", code="owner_unknown")
    await refusal(door, bearer(own({"sub": "mallory"})))
    door._count()
    assert metric("tollgate_tokens_refused_total", code="owner_unknown") == before + 1


# Tokens of the identity provider, by what is known of their user.


async def test_an_unknown_user_has_what_the_token_says(door: TokenAuthenticator) -> None:
    assert "infer" in (await identified(door, mint({"sub": "carol"}, now=NOW))).roles


async def test_roles_that_were_lost_since(door: TokenAuthenticator, owners: FakeOwners) -> None:
    left = ("offline_access", "default-roles-ml", "new")
    owners.put(ALICE, standing("infer", now=left, checked_at=NOW))
    found = await identified(door, mint({"groups": ["/staff", "/gone"]}, now=NOW))
    assert found.roles == frozenset(left[:2])
    assert found.principal.roles == ("default-roles-ml", "offline_access")
    assert (found.groups, found.owner) == (frozenset({"/staff"}), None)


async def test_nothing_lost_is_nothing_changed(door: TokenAuthenticator, owners: FakeOwners) -> None:
    owners.put(ALICE, standing(now=("offline_access", "default-roles-ml", "infer", "new"), checked_at=NOW))
    assert "infer" in (await identified(door, mint(now=NOW))).roles


async def test_a_token_after_the_last_answer_is_believed(door: TokenAuthenticator, owners: FakeOwners) -> None:
    owners.put(ALICE, standing(now=(), checked_at=NOW - 1))
    assert "infer" in (await identified(door, mint(now=NOW))).roles


async def test_a_disabled_user(door: TokenAuthenticator, owners: FakeOwners) -> None:
    token = mint(now=NOW)
    await identified(door, token)
    owners.put(ALICE, standing(now=(), enabled=False, checked_at=NOW - 1))
    refused = await refusal(door, bearer(token))
    assert isinstance(refused, Denied)
    assert (refused.reason, refused.code) == (Reason.INVALID_CREDENTIAL, "user_disabled")
    assert re.search("disabled", refused.detail)


async def test_a_service_account_of_the_same_name_says_nothing_of_a_user(
    door: TokenAuthenticator, owners: FakeOwners
) -> None:
    owners.put(ALICE, standing(service=True, enabled=False))
    assert "infer" in (await identified(door, mint(now=NOW))).roles


async def test_owners_without_api_tokens(clock: FakeClock, owners: FakeOwners) -> None:
    made = TokenAuthenticator([an_issuer()], fetch=FakeJwks(RSA), clock=clock, cache_size=9, owners=owners)
    await made.start()
    try:
        await identified(made, mint(now=NOW))
        owners.put(ALICE, standing(now=(), checked_at=NOW))
        assert not (await identified(made, mint(now=NOW))).roles
        checked(await refusal(made, bearer(own())), "issuer_unknown")
    finally:
        await made.stop()
