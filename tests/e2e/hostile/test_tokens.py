"""Tokens at the real world: forged or malformed tokens are refused, what the policy does not use refuses nobody."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.hostile.world import World
from tests.services import wait_for
from tests.tokens import EC256, ISSUER, PSS, RSA, RSA_NEXT, TestKey, b64, keycloak_claims, mint, to_json

HEADER = {"alg": "RS256", "typ": "JWT", "kid": RSA.key_id}


def call(world: World, token: str) -> httpx.Response:
    url = f"http://127.0.0.1:{world.port}/v2/models/sentiment"
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=10)


def hs256(secret: bytes) -> str:
    signing_input = f"{b64(to_json({**HEADER, 'alg': 'HS256'}))}.{b64(to_json(keycloak_claims()))}"
    return f"{signing_input}.{b64(hmac.digest(secret, signing_input.encode(), 'sha256'))}"


def pem() -> bytes:
    return RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def stripped() -> str:
    return ".".join([*mint().split(".")[:2], b64(b"x" * 256)])


def thief(key: TestKey, **headers: object) -> str:
    return mint(key=key, headers={"kid": RSA.key_id, **headers})


FORGED: dict[str, Callable[[], str]] = {
    "no algorithm": lambda: f"{b64(to_json({**HEADER, 'alg': 'none'}))}.{mint().split('.')[1]}.{b64(b'x')}",
    "another signature": stripped,
    "another key": lambda: thief(RSA_NEXT),
    "a key of another type": lambda: thief(EC256),
    "a key of another type that says it is not": lambda: thief(EC256, alg="RS256"),
    "another algorithm of the same key": lambda: thief(PSS),
    "another algorithm that says it is not": lambda: thief(PSS, alg="RS256"),
    "the public key as a secret": lambda: hs256(pem()),
    "the published key as a secret": lambda: hs256(to_json(RSA.jwk())),
    "a key of its own": lambda: thief(RSA_NEXT, jwk=RSA_NEXT.jwk()),
    "an address of keys": lambda: thief(RSA_NEXT, jku="http://127.0.0.1/keys"),
    "an unknown key": lambda: mint(headers={"kid": "made-up"}),
    "another issuer": lambda: mint({"iss": ISSUER + "/"}),
    "expired": lambda: mint({"exp": int(time.time()) - 1, "iat": int(time.time()) - 300}),
    "for others": lambda: mint({"aud": "account"}),
    "an ID token": lambda: mint({"typ": "ID"}),
    "bound to a key": lambda: mint({"cnf": {"jkt": "x"}}),
    "a subject that is null": lambda: mint({"sub": None}),
    "without an id": lambda: mint({"jti": None}),
    "too large": lambda: mint({"padding": "x" * 32_768}),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_token_is_refused(world: World, case: str) -> None:
    answer = call(world, FORGED[case]())
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert not world.upstream.reached


ODD: dict[str, dict[str, Any]] = {
    "one group": {"groups": "/ml"},
    "no groups": {"groups": None},
    "groups in another shape": {"groups": {"/ml": True}},
    "no scope": {"scope": None},
    "a scope in another shape": {"scope": 7},
    "no roles of the realm": {"realm_access": None},
    "roles of the realm in another shape": {"realm_access": ["x"]},
    "roles of others": {"resource_access": {"account": None, "triton-gateway": {"roles": ["infer"]}, "x": [1]}},
    "one role": {"resource_access": {"triton-gateway": {"roles": "infer"}}},
    "a long role": {"realm_access": {"roles": ["r" * 300, "s" * 5000]}},
    "odd roles": {"realm_access": {"roles": ["", "a\r\nx-user-id: root", "\0", "\ud800", 7, None, ["x"]]}},
    "no session": {"sid": None},
    "no binding": {"cnf": None},
    "no beginning": {"nbf": None},
    "no client": {"azp": None},
    "an audience beside ours": {"aud": ["triton-gateway", "x" * 300]},
    "others in another shape": {"name": [None], "email": {}, "acr": 1.5, "allowed-origins": "*", "address": None},
    "200 roles": {"realm_access": {"roles": [f"team-{n:03}-inference-on-every-model" for n in range(200)]}},
}


@pytest.mark.parametrize("case", ODD)
def test_claims_that_the_policy_does_not_use_refuse_no_token(world: World, case: str) -> None:
    answer = call(world, world.token(**ODD[case]))
    assert answer.status_code == 200, answer.text
    (reached,) = world.upstream.reached
    assert reached.all("x-user-id") == [str(keycloak_claims()["sub"])]
    (roles,) = reached.all("x-user-roles")
    assert "infer" in roles.split(",") or roles.endswith(",!more")
    assert len(roles) <= 4096
    assert not reached.all("authorization")


def test_what_gives_no_role_gives_no_right(world: World) -> None:
    for odd in ({"roles": {"infer": True}}, {"roles": None}, ["infer"], {"roles": [["infer"]]}):
        answer = call(world, world.token(resource_access={"triton-gateway": odd}))
        assert (answer.status_code, bool(world.upstream.reached)) == (403, False)


def test_only_the_log_names_the_issuer(world: World) -> None:
    said = "https://kc.example/realms/\u2028elsewhere/" + "x" * 4000
    answer = call(world, world.token(iss=said))
    assert (answer.status_code, answer.json()["code"]) == (401, "issuer_unknown")
    assert "elsewhere" not in answer.text

    def logged() -> list[str]:
        lines = (line for line in world.server.log if line["event"] == "issuer unknown")
        return [line["issuer"] for line in lines if "elsewhere" in line["issuer"]]

    wait_for(lambda: bool(logged()))
    assert logged()[0] == said.replace("\u2028", "?")[:200]


def test_the_header_is_one_header(world: World) -> None:
    token = world.token()
    for values in (
        [f"Bearer {token}", f"Bearer {token}"],
        [f"Bearer {token},Bearer x"],
        ["Basic eDp5", f"Bearer {token}"],
    ):
        url = f"http://127.0.0.1:{world.port}/v2/models/sentiment"
        answer = httpx.get(url, headers=[("authorization", value) for value in values])
        assert answer.status_code in (400, 401)
        assert not world.upstream.reached
