"""The rules of ASAP: whose key it is, before anything is fetched, and what the claims must say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ext_authz.identity.asap import use_of
from ext_authz.identity.keys import MAX_KEY_ID
from tests.tokens import ABSENT, AUDIENCE, EC256, EC384, EC521, ED25519, PSS, RSA, RSA_NEXT, TestKey, b64, to_json
from tests.unit.identity.asap_world import World, a_service, signed
from tests.unit.identity.world import NOW, checked


async def test_who_it_is() -> None:
    identity = await World().call(signed({"roles": ["admin"], "scope": "admin", "azp": "other", "sid": "s"}))
    who = identity.principal
    assert (who.issuer, who.subject, who.client, who.roles, who.token_id) == (
        *("web", "web", "web"),
        ("infer",),
        "1795179600:12345",
    )
    assert (identity.issuer_name, identity.session, identity.audiences) == ("web", "", (AUDIENCE,))
    assert (set(identity.roles), set(identity.scopes), set(identity.groups)) == ({"infer"}, set(), set())
    assert (identity.issued_at, identity.expires_at, identity.leeway) == (int(NOW), int(NOW) + 60, 30)


@pytest.mark.parametrize("key", [RSA, PSS, EC256, EC384, EC521], ids=repr)
async def test_each_algorithm(key: TestKey) -> None:
    world = World()
    world.repository.publish("one", key)
    assert (await world.call(signed(key=key))).principal.subject == "web"


@pytest.mark.parametrize(
    "kid",
    [
        *(
            "other/one",
            "web",
            "web/",
            "/web/one",
            "web//one",
            "webx/one",
            "WEB/one",
            " web/one",
            "web/one ",
            "web/one\n",
        ),
        *("web/../one", "web/..", "web/.", "web/one/..", "../web/one", "web/./one", "web/..one", "web/one..pem"),
        *("web/.one", "web/%2e%2e", "web/%2e%2e%2fother", "web/one%00", "web/one?x", "web/one#x", "web/one;x"),
        *("web\\one", "web/a\\b", "web/one\0", "web/\u0661", "web/\uff0e\uff0e", "web/o\u0301", "w\u0435b/one"),
        *("web/one\u2028", "web/\ud800", "https://evil.example/web/one", "//evil.example/one"),
        *("web/o@evil.example", "web:one", "web/two/one", f"web/{'a' * (MAX_KEY_ID - 5)}/", "web/a/;a", " / ", "."),
    ],
    ids=ascii,
)
async def test_no_other_key_is_ever_asked_for(kid: str) -> None:
    world = World()
    checked(await world.refusal(signed(kid=kid)), "key_not_owned")
    assert world.repository.asked == []


@pytest.mark.parametrize("kid", ["web/one.pem", "web/2026-11-20", "web/a_b+c-d.e", "web/-one-", f"web/{'k' * 196}"])
async def test_names_of_keys(kid: str) -> None:
    world = World()
    world.repository.publish(kid.removeprefix("web/"), RSA)
    assert (await world.call(signed(kid=kid))).principal.subject == "web"
    assert world.repository.asked == [f"https://keys.example/{kid}"]


async def test_one_service_is_not_another_whose_name_begins_alike() -> None:
    world = World(a_service(issuer="team", name="team"), a_service(issuer="team/web", name="web"))
    for iss, kid in (("team", "team/web/one"), ("team/web", "team/one"), ("team/web", "team/web")):
        checked(await world.refusal(signed({"iss": iss, "sub": iss}, kid=kid)), "key_not_owned")
    assert world.repository.asked == []


@pytest.mark.parametrize(
    "kid",
    [ABSENT, None, 7, "", ["web/one"], "web/" + "k" * 197],
    ids=lambda kid: "absent" if kid is ABSENT else str(kid),
)
async def test_no_key_id(kid: object) -> None:
    world = World()
    checked(await world.refusal(signed(kid=kid)), "token_malformed")
    assert world.repository.asked == []


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"alg": "none"}, "algorithm_refused"),
        ({"alg": "NONE"}, "algorithm_refused"),
        ({"alg": "HS256"}, "algorithm_refused"),
        ({"alg": "EdDSA"}, "algorithm_refused"),
        ({"alg": "RS512"}, "algorithm_refused"),
        ({"alg": "ES256"}, "key_unknown"),
        ({"alg": "PS256"}, "signature_invalid"),
        ({"jku": "https://evil.example/keys"}, "header_refused"),
        ({"x5u": "https://evil.example/key"}, "header_refused"),
        ({"jwk": {"kty": "RSA"}}, "header_refused"),
        ({"typ": "dpop+jwt"}, "token_type"),
    ],
)
async def test_headers(headers: Mapping[str, object], code: str) -> None:
    checked(await World().refusal(signed(headers=headers)), code)


async def test_another_key_than_the_one_it_names() -> None:
    checked(await World().refusal(signed(key=RSA_NEXT)), "signature_invalid")
    checked(await World().refusal(signed(key=ED25519)), "algorithm_refused")


async def test_a_token_without_a_signature() -> None:
    head = b64(to_json({"alg": "none", "typ": "JWT", "kid": "web/one"}))
    checked(await World().refusal(f"{head}.{signed().split('.')[1]}."), "token_malformed")


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        *(({name: ABSENT}, "claim_missing") for name in ("exp", "iat", "jti", "aud")),
        *(({name: None}, "claim_missing") for name in ("exp", "iat", "jti", "aud")),
        ({"exp": int(NOW) + 3601}, "claim_invalid"),
        ({"exp": "soon"}, "claim_invalid"),
        ({"exp": int(NOW) - 30}, "token_expired"),
        ({"iat": int(NOW) + 31}, "token_not_yet_valid"),
        ({"nbf": int(NOW) + 31}, "token_not_yet_valid"),
        ({"aud": "other"}, "audience_mismatch"),
        ({"aud": ["other"]}, "audience_mismatch"),
        ({"aud": []}, "audience_mismatch"),
        ({"aud": 5}, "claim_invalid"),
        ({"jti": ""}, "claim_invalid"),
        ({"jti": 5}, "claim_invalid"),
        ({"jti": "j" * 256}, "claim_invalid"),
        ({"sub": "other"}, "subject_refused"),
        ({"sub": None}, "claim_invalid"),
        ({"sub": ""}, "claim_invalid"),
        ({"sub": "web\n"}, "claim_invalid"),
        ({"cnf": {"jkt": "x"}}, "token_bound"),
        ({"iss": "other"}, "issuer_unknown"),
        ({"iss": "web/one"}, "issuer_unknown"),
        ({"iss": ["web"]}, "claim_invalid"),
        ({"iss": ABSENT}, "claim_missing"),
    ],
)
async def test_claims(claims: Mapping[str, object], code: str) -> None:
    checked(await World().refusal(signed(claims)), code)


@pytest.mark.parametrize(
    "claims",
    [{"exp": int(NOW) + 3600}, {"aud": ["other", AUDIENCE]}, {"sub": ABSENT}, {"nbf": ABSENT}, {"iat": int(NOW) + 30}],
)
async def test_what_is_as_good(claims: Mapping[str, object]) -> None:
    assert (await World().call(signed(claims))).principal.subject == "web"


async def test_a_shorter_life() -> None:
    world = World(a_service(max_token_age=60))
    checked(await world.refusal(signed({"exp": int(NOW) + 61})), "claim_invalid")
    await world.call(signed())


async def test_a_service_that_may_act_for_others() -> None:
    world = World(a_service({"other_subjects": True}))
    who = (await world.call(signed({"sub": "alice"}))).principal
    assert (who.subject, who.client, who.issuer) == ("alice", "web", "web")


async def test_uses_of_two_issuers_differ() -> None:
    one, other = World(), World(a_service(issuer="web2", name="web2"))
    other.repository.held["https://keys.example/web2/one"] = RSA.pem()
    first = await one.call(signed({"jti": "2 same"}))
    second = await other.call(signed({"iss": "web2", "sub": "web2", "jti": "same"}, kid="web2/one"))
    assert use_of(first) != use_of(second)
