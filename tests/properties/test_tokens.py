"""Whatever a caller sends, it ends in an identity or in `Denied`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.errors import Denied
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import ED25519, b64, keycloak_claims, sign, to_json
from tests.unit.identity.world import NOW, an_issuer, minted

Verify = Callable[..., Identity | Denied]

GOOD = minted(key=ED25519)  # the fastest key to sign with
HEADER: dict[str, Any] = {"alg": "EdDSA", "typ": "JWT", "kid": ED25519.key_id}
CLAIMS = keycloak_claims(NOW)

texts = st.text(st.characters(exclude_categories=[]))  # lone surrogates, too
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def verify() -> Iterator[Verify]:
    """One authenticator for all examples. Anything that it raises but `Denied` fails the test."""
    issuer = an_issuer(algorithms=frozenset({"EdDSA"}))
    authenticator = TokenAuthenticator([issuer], fetch=FakeJwks(ED25519), clock=FakeClock(), cache_size=100)

    async def authenticate(authorization: tuple[str, ...]) -> Identity | Denied:
        try:
            return await authenticator.authenticate(authorization)
        except Denied as refused:
            return refused

    with asyncio.Runner() as runner:
        yield lambda *authorization: runner.run(authenticate(authorization))


def test_a_good_token_is_accepted(verify: Verify) -> None:
    assert isinstance(verify(f"Bearer {GOOD}"), Identity)


@given(st.lists(texts | st.sampled_from(["Bearer", "Bearer ", f"Bearer {GOOD}", "a.b.c"]), max_size=3))
def test_any_header_values(verify: Verify, values: list[str]) -> None:
    assert isinstance(verify(*values), Denied) or values == [f"Bearer {GOOD}"]


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_any_three_segments(verify: Verify, header: bytes, claims: bytes, signature: bytes) -> None:
    assert isinstance(verify(f"Bearer {b64(header)}.{b64(claims)}.{b64(signature)}"), Denied)


@given(st.integers(0, len(GOOD) - 1), st.characters(), st.sampled_from(["replace", "insert", "cut"]))
@settings(max_examples=200)
def test_any_change_to_a_good_token(verify: Verify, at: int, character: str, how: str) -> None:
    after = GOOD[at + (how == "replace") :] if how != "cut" else ""
    changed = GOOD[:at] + character * (how != "cut") + after
    assert isinstance(verify(f"Bearer {changed}"), Denied) or changed == GOOD


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_signed(verify: Verify, header: bytes, claims: bytes) -> None:
    """As an issuer that lost its mind would send them."""
    assert isinstance(verify(f"Bearer {sign(header, claims, ED25519)}"), Denied)
    assert isinstance(verify(f"Bearer {sign(to_json(HEADER), claims, ED25519)}"), Denied)


@given(st.sampled_from(sorted(HEADER)), json_values)
def test_any_value_in_the_header(verify: Verify, name: str, value: object) -> None:
    token = minted(headers={name: value}, key=ED25519)
    assert isinstance(verify(f"Bearer {token}"), Denied) or value == HEADER[name] or str(value).lower() == "jwt"


@given(st.sampled_from([*sorted(CLAIMS), "nbf", "cnf", "client_id"]), json_values)
@settings(max_examples=200)
def test_any_value_in_the_claims(verify: Verify, name: str, value: object) -> None:
    found = verify(f"Bearer {minted({name: value}, key=ED25519)}")
    if isinstance(found, Identity):
        principal = found.principal
        assert principal.client.encode() or name == "azp"
        travelling = [principal.subject, principal.token_id, *principal.roles]
        assert all(text.encode() and len(text) <= 255 for text in travelling)
        assert all(text.encode() or name in ("groups", "scope") for text in (*found.groups, *found.scopes))
        assert found.expires_at + 30 > NOW >= found.issued_at - 30
