"""What is believed of an identity provider's answers: no more than is signed, for us, and about this sign-in."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ext_authz.clock import SystemClock
from ext_authz.errors import Unavailable
from ext_authz.identity.fetch import http_client
from ext_authz.policy.issuers import Issuer
from ext_authz.web.oidc import IdentityProvider, SessionOver, SignInRefused, Started, Tokens
from tests.http_server import running_http_server
from tests.tokens import ABSENT, RSA, RSA_NEXT, jwks, mint

ANSWERS: dict[str, Any] = {}
"""Of the fake identity provider, by path: a body, or a status with a body."""
ASKED: list[dict[str, list[str]]] = []
STARTED = Started("state", "nonce", "v" * 64, "/tollgate/", 0)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = ANSWERS.get(self.path, (404, {}))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def do_POST(self) -> None:
        ASKED.append(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode()))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def issuer() -> Iterator[str]:
    with running_http_server(_Handler) as port:
        url = f"http://127.0.0.1:{port}"
        ANSWERS.clear()
        ASKED.clear()
        endpoints = {
            "authorization_endpoint": f"{url}/auth",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/jwks",
        }
        ANSWERS["/.well-known/openid-configuration"] = 200, {"issuer": url, **endpoints}
        ANSWERS["/jwks"] = 200, jwks(RSA)
        ANSWERS["/token"] = 200, {"access_token": "at", "refresh_token": "rt", "id_token": id_token(url)}
        yield url


@pytest.fixture
async def provider(issuer: str) -> AsyncIterator[IdentityProvider]:
    async with _provider(issuer) as provider:
        yield provider


@asynccontextmanager
async def _provider(issuer: str) -> AsyncIterator[IdentityProvider]:
    known = Issuer("demo", issuer, f"{issuer}/jwks", frozenset({"triton-gateway"}))
    made = IdentityProvider(
        known, "console", "secret", redirect_uri="http://127.0.0.1/cb", http=http_client(5.0), clock=SystemClock()
    )
    try:
        yield made
    finally:
        await made.close()


def id_token(issuer: str, **claims: object) -> str:
    usual = {"iss": issuer, "aud": "console", "azp": "console", "nonce": "nonce", "sub": "alice", "typ": "ID"}
    return mint({**usual, "jti": ABSENT, **claims})


async def test_a_sign_in_begins_with_a_challenge_and_ends_with_its_verifier(provider: IdentityProvider) -> None:
    url, started = await provider.begin("/tollgate/usage")
    asked = parse_qs(urlsplit(url).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["state"] == [started.state]
    assert asked["nonce"] == [started.nonce]
    assert started.verifier not in url
    assert len({started.state, started.nonce, started.verifier}) == 3
    tokens, subject = await provider.redeem("code", "", STARTED)
    assert (tokens.access_token, tokens.refresh_token, subject) == ("at", "rt", "alice")
    assert [
        {
            "grant_type": ["authorization_code"],
            "code": ["code"],
            "redirect_uri": ["http://127.0.0.1/cb"],
            "code_verifier": [STARTED.verifier],
        }
    ] == ASKED


async def test_an_id_token_may_be_for_others_too(issuer: str, provider: IdentityProvider) -> None:
    ANSWERS["/token"] = 200, {"access_token": "at", "id_token": id_token(issuer, aud=["other", "console"])}
    assert (await provider.redeem("code", issuer, STARTED))[1] == "alice"


def test_no_secret_is_printed() -> None:
    assert "secret" not in repr(Tokens("secret", "secret", "secret"))


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": ABSENT},
        {"aud": "another-client"},
        {"aud": ["console", "other"], "azp": "other"},
        {"iss": "https://evil.example"},
        {"exp": int(time.time()) - 60},
        {"iat": int(time.time()) + 86_400},
        {"sub": ABSENT},
        {"at_hash": "x"},
    ],
)
async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    issuer: str, provider: IdentityProvider, claims: dict[str, object]
) -> None:
    ANSWERS["/token"] = 200, {"access_token": "at", "id_token": id_token(issuer, **claims)}
    with pytest.raises(SignInRefused, match="ID token"):
        await provider.redeem("code", "", STARTED)


@pytest.mark.parametrize("token", ["", "x", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."])
async def test_an_id_token_that_nobody_signed_is_refused(provider: IdentityProvider, token: str) -> None:
    ANSWERS["/token"] = 200, {"access_token": "at", "id_token": token}
    with pytest.raises(SignInRefused):
        await provider.redeem("code", "", STARTED)


async def test_an_id_token_that_another_key_signed_is_refused(issuer: str, provider: IdentityProvider) -> None:
    forged = mint({"iss": issuer, "aud": "console", "nonce": "nonce", "sub": "alice"}, key=RSA_NEXT)
    ANSWERS["/token"] = 200, {"access_token": "at", "id_token": forged}
    with pytest.raises(SignInRefused):
        await provider.redeem("code", "", STARTED)


async def test_an_answer_of_another_identity_provider_is_refused(issuer: str, provider: IdentityProvider) -> None:
    """RFC 9207: and one that does not say whose it is, where this one always says it."""
    with pytest.raises(SignInRefused, match="another identity provider"):
        await provider.redeem("code", "https://evil.example", STARTED)
    status, document = ANSWERS["/.well-known/openid-configuration"]
    always = {**document, "authorization_response_iss_parameter_supported": True}
    ANSWERS["/.well-known/openid-configuration"] = status, always
    async with _provider(issuer) as strict:
        with pytest.raises(SignInRefused):
            await strict.redeem("code", "", STARTED)
        await strict.redeem("code", issuer, STARTED)
    assert len(ASKED) == 1, "the code was sent all the same"


@pytest.mark.parametrize("document", [{"issuer": "https://evil.example"}, {}, b"no json", [], b"x" * 300_000])
async def test_a_discovery_that_is_not_the_issuers_own_is_not_used(
    issuer: str, provider: IdentityProvider, document: object
) -> None:
    if isinstance(document, dict) and document:
        document = {**ANSWERS["/.well-known/openid-configuration"][1], **document}
    ANSWERS["/.well-known/openid-configuration"] = 200, document
    with pytest.raises(Unavailable):
        await provider.begin("/")


async def test_a_session_that_is_over_is_told_apart_from_a_client_that_is_refused(provider: IdentityProvider) -> None:
    ANSWERS["/token"] = 400, {"error": "invalid_grant"}
    with pytest.raises(SessionOver):
        await provider.refresh("rt")
    with pytest.raises(SignInRefused, match="code"):
        await provider.redeem("code", "", STARTED)
    ANSWERS["/token"] = 401, {"error": "invalid_client"}
    with pytest.raises(SignInRefused, match="invalid_client"):
        await provider.refresh("rt")


@pytest.mark.parametrize("answer", [(500, {}), (503, b"<html>"), (200, {}), (200, {"access_token": 5})])
async def test_while_it_cannot_answer_nothing_is_over(provider: IdentityProvider, answer: tuple[int, object]) -> None:
    ANSWERS["/token"] = answer
    with pytest.raises(Unavailable):
        await provider.refresh("rt")


async def test_keys_that_cannot_be_fetched_are_no_reason_to_refuse_for_good(provider: IdentityProvider) -> None:
    ANSWERS["/jwks"] = 404, {}
    with pytest.raises(Unavailable):
        await provider.redeem("code", "", STARTED)


async def test_one_signs_out_there_too_where_there_is_an_address_for_it(
    issuer: str, provider: IdentityProvider
) -> None:
    assert await provider.signed_out_url("hint", "http://127.0.0.1/after") == "http://127.0.0.1/after"
    status, document = ANSWERS["/.well-known/openid-configuration"]
    ANSWERS["/.well-known/openid-configuration"] = status, {**document, "end_session_endpoint": f"{issuer}/end"}
    async with _provider(issuer) as other:
        url = urlsplit(await other.signed_out_url("hint", "http://127.0.0.1/after"))
    assert url.path == "/end"
    assert parse_qs(url.query) == {
        "client_id": ["console"],
        "post_logout_redirect_uri": ["http://127.0.0.1/after"],
        "id_token_hint": ["hint"],
    }
