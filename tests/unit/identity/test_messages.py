"""Messages of an issuer that are no tokens of a caller: verified up to the signature as strictly as those."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.jwks import KeySet
from ext_authz.identity.messages import MAX_MESSAGE, Message, SignedMessages
from tests.fakes import FakeClock
from tests.tokens import ABSENT, EC256, ISSUER, RSA, RSA_NEXT, jwks, mint, sign, to_json
from tests.unit.identity.world import an_issuer

LOGOUT = frozenset({"logout+jwt"})
HEADER = {"typ": "logout+jwt"}


def messages(*, up: bool = True) -> tuple[SignedMessages, list[str]]:
    """Of the issuer of `mint`, and the fetches of its keys."""
    fetched: list[str] = []

    async def fetch(url: str) -> bytes:
        fetched.append(url)
        if not up:
            raise ValueError("away")
        return jwks(RSA)

    issuer = an_issuer()
    return SignedMessages({issuer.issuer: KeySet(issuer, fetch=fetch, clock=FakeClock())}), fetched


async def read(text: str, *, iss: str = "") -> Message:
    return await messages()[0].read(text, LOGOUT, iss)


async def test_what_its_issuer_signed_is_read_without_what_is_null() -> None:
    message = await read(mint({"events": None, "exp": ABSENT}, headers={"typ": "Logout+JWT"}))
    assert (message.issuer.name, message.type) == ("ml", "logout+jwt")
    assert message.claims["iss"] == ISSUER
    assert "events" not in message.claims


async def test_an_issuer_may_be_given_to_a_message_that_names_none() -> None:
    assert "iss" not in (await read(mint({"iss": ABSENT}, headers=HEADER), iss=ISSUER)).claims
    assert (await read(mint(headers=HEADER), iss=ISSUER)).claims["iss"] == ISSUER


@pytest.mark.parametrize(
    ("text", "iss", "code"),
    [
        (mint(), "", "token_type"),
        (mint(headers={"typ": "at+jwt"}), "", "token_type"),
        (mint(headers={"typ": ABSENT}), "", "token_malformed"),
        (mint({"iss": ABSENT}, headers=HEADER), "", "claim_missing"),
        (mint({"iss": "https://other.example"}, headers=HEADER), "", "issuer_unknown"),
        (mint(headers=HEADER), "https://other.example", "issuer_unknown"),
        (mint({"iss": "https://other.example"}, headers=HEADER), ISSUER, "issuer_unknown"),
        (mint(headers={**HEADER, "jwk": RSA.jwk()}), "", "header_refused"),
        (mint(headers={**HEADER, "alg": "none"}), "", "algorithm_refused"),
        (mint(headers={**HEADER, "alg": "HS256"}), "", "algorithm_refused"),
        (mint(headers=HEADER, key=EC256), "", "algorithm_refused"),
        (mint(headers=HEADER, key=RSA_NEXT), "", "key_unknown"),
        (mint(headers={**HEADER, "kid": RSA.key_id}, key=RSA_NEXT), "", "signature_invalid"),
        (mint({"x": "x" * MAX_MESSAGE}, headers=HEADER), "", "token_too_large"),
        (mint(headers=HEADER) + "=", "", "token_malformed"),
        ("nonsense", "", "token_malformed"),
    ],
)
async def test_everything_else_is_refused(text: str, iss: str, code: str) -> None:
    with pytest.raises(Denied) as refused:
        await read(text, iss=iss)
    assert refused.value.code == code


@pytest.mark.parametrize("claims", [b'{"iss":"%s","sub":"a","sub":"b"}' % ISSUER.encode(), b"[]", b'{"iss":NaN}'])
async def test_json_with_two_meanings_is_refused(claims: bytes) -> None:
    header: Mapping[str, str] = {"alg": RSA.algorithm, "kid": RSA.key_id, **HEADER}
    with pytest.raises(Denied) as refused:
        await read(sign(to_json(header), claims))
    assert refused.value.code == "token_malformed"


async def test_invented_keys_cost_one_fetch_for_all() -> None:
    reader, fetched = messages()
    for number in range(50):
        with pytest.raises(Denied):
            await reader.read(mint(headers={**HEADER, "kid": f"k{number}"}), LOGOUT)
    assert len(fetched) == 1


async def test_without_keys_nothing_is_said() -> None:
    with pytest.raises(Unavailable):
        await messages(up=False)[0].read(mint(headers=HEADER), LOGOUT)


async def test_the_keys_are_those_of_the_authenticator() -> None:
    async def fetch(_: str) -> bytes:
        return jwks(RSA)

    authenticator = TokenAuthenticator([an_issuer()], fetch=fetch, clock=FakeClock(), cache_size=1)
    message = await SignedMessages(authenticator.key_sets).read(mint(headers=HEADER), LOGOUT)
    assert message.issuer.name == "ml"
