"""Whatever comes as a DPoP proof, or as an issuer's answer about a token, ends in a caller or in `Denied`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr

from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.proof import Presented, Proof, normalised, verify
from ext_authz.policy.issuers import Introspection, Proofs
from tests.dpop import Holder
from tests.fakes import FakeClock, FakeJwks
from tests.properties.test_tokens import json_values, texts
from tests.tokens import ED25519, RSA, b64, keycloak_claims, to_json
from tests.unit.identity.world import NOW, an_issuer

URL = "https://models.example/v2/models/m/infer"
TOKEN = "some.access.token"
HOLDER = Holder(ED25519)
WHAT = Presented("POST", URL, TOKEN, HOLDER.thumbprint)
ASKS = Introspection("https://id.example/introspect", "c", SecretStr("s"), opaque=True)


def verified(proof: str) -> Proof | Denied:
    try:
        return verify(proof, WHAT, Proofs(), 5, NOW)
    except Denied as refused:
        return refused


def test_a_good_proof_is_accepted() -> None:
    assert isinstance(verified(HOLDER.proof("POST", URL, TOKEN, now=NOW)), Proof)


@given(texts | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}"))
def test_any_text(text: str) -> None:
    assert isinstance(verified(text), Denied)


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_any_three_segments(header: bytes, claims: bytes, signature: bytes) -> None:
    assert isinstance(verified(".".join(map(b64, (header, claims, signature)))), Denied)


@given(st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "kid", "crit"]), json_values, min_size=1))
def test_any_header(header: dict[str, Any]) -> None:
    found = verified(HOLDER.proof("POST", URL, TOKEN, header=header, now=NOW))
    assert isinstance(found, Denied) or header.keys() == {"kid"}


@given(st.dictionaries(st.sampled_from(["htm", "htu", "ath", "iat"]), json_values, min_size=1))
def test_any_claims(claims: dict[str, Any]) -> None:
    assert isinstance(verified(HOLDER.proof("POST", URL, TOKEN, claims, now=NOW)), Denied)


@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "use"]), json_values, min_size=1))
def test_any_key(changes: dict[str, Any]) -> None:
    found = verified(HOLDER.proof("POST", URL, TOKEN, header={"jwk": {**HOLDER.jwk, **changes}}, now=NOW))
    assert isinstance(found, Denied) or not changes.keys() & {"kty", "crv", "x", "d", "k"}


@given(texts | st.text("htps:/.%2eEa@?#[]\\ 048", max_size=30).map("https://".__add__))
def test_an_address_has_one_form(url: str) -> None:
    once = normalised(url)
    assert normalised(once) == once or not once


@given(
    st.dictionaries(
        st.sampled_from([*keycloak_claims(NOW), "active", "username", "token_type", "cnf", "act", "client_id"]),
        json_values,
    )
)
def test_any_answer_about_a_token(said: dict[str, Any]) -> None:
    answer = {**keycloak_claims(NOW), "active": True, **said}

    async def ask(_url: str, _form: Mapping[str, str], _client: tuple[str, str]) -> bytes:
        return to_json(answer)

    async def call() -> None:
        issuer = replace(an_issuer(), introspection=ASKS, cnf="verify")
        authenticator = TokenAuthenticator(
            [issuer], fetch=FakeJwks(RSA), clock=FakeClock(), cache_size=1, ask=ask, max_token=100
        )
        try:
            identity = await authenticator.authenticate(("Bearer opaque",))
        except (Denied, Unavailable):
            return
        assert answer["active"] is True
        assert identity.principal.issuer == issuer.issuer

    asyncio.run(call())
