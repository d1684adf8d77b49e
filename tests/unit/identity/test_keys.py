"""A key set is read key by key: what cannot serve is left out and costs the others nothing."""

from __future__ import annotations

from typing import Any

import pytest
from jwt.algorithms import get_default_algorithms

from ext_authz.identity.keys import parse_keys
from tests.tokens import ABSENT, EC256, EC384, ED448, ED25519, PSS, RSA, RSA_NEXT, RSA_WEAK, TestKey, jwks, to_json
from tests.unit.identity.door import EVERY_ALGORITHM

RS256 = frozenset({"RS256"})

LEFT_OUT: dict[str, object] = {
    "for encryption": RSA_NEXT.jwk(use="enc", alg="RSA-OAEP"),
    "for encryption, by use": RSA_NEXT.jwk(use="enc"),
    "for encryption, by alg": RSA_NEXT.jwk(alg="RSA-OAEP"),
    "use is no text": RSA_NEXT.jwk(use=["sig"]),
    "only for signing": RSA_NEXT.jwk(key_ops=["sign"]),
    "key_ops is no array": RSA_NEXT.jwk(key_ops="verify"),
    "post-quantum": {"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "use": "sig", "pub": "AAAA"},
    "symmetric": {"kty": "oct", "alg": "HS256", "kid": "secret", "use": "sig", "k": "c2VjcmV0"},
    "symmetric as RS256": {"kty": "oct", "alg": "RS256", "kid": "secret", "use": "sig", "k": "c2VjcmV0"},
    "too short": RSA_WEAK.jwk(),
    "no kid": RSA_NEXT.jwk(kid=ABSENT),
    "empty kid": RSA_NEXT.jwk(kid=""),
    "kid a number": RSA_NEXT.jwk(kid=7),
    "kid too long": RSA_NEXT.jwk(kid="k" * 201),
    "no kty": RSA_NEXT.jwk(kty=ABSENT),
    "kty an array": RSA_NEXT.jwk(kty=["RSA"]),
    "crv an array": EC256.jwk(crv=["P-256"]),
    "kty of another key": RSA_NEXT.jwk(kty="EC", crv="P-256"),
    "alg of another kind": RSA_NEXT.jwk(alg="ES256"),
    "alg of another curve": EC256.jwk(alg="ES384"),
    "alg none": RSA_NEXT.jwk(alg="none"),
    "alg symmetric": RSA_NEXT.jwk(alg="HS256"),
    "alg null": RSA_NEXT.jwk(alg=None),
    "alg an object": RSA_NEXT.jwk(alg={}),
    "a curve of Bitcoin": EC256.jwk(crv="secp256k1", alg="ES256K"),
    "for key agreement": {"kty": "OKP", "crv": "X25519", "kid": "x", "x": "AAAA"},
    "no modulus": RSA_NEXT.jwk(n=ABSENT),
    "modulus a number": RSA_NEXT.jwk(n=7),
    "modulus no base64": RSA_NEXT.jwk(n="!!"),
    "even exponent": RSA_NEXT.jwk(e="Ag"),
    "a point off the curve": EC256.jwk(y="A" * 43),
    "a short coordinate": EC256.jwk(x="AAAA"),
    "a short Ed25519 key": ED25519.jwk(x="AAAA"),
    "null": None,
    "a string": "key",
    "an array": [],
    "empty": {},
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_left_out(case: str) -> None:
    document = to_json({"keys": [LEFT_OUT[case], RSA.jwk()]})
    assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA.key_id]


@pytest.mark.parametrize("key", [RSA_NEXT, EC256, ED25519], ids=repr)
def test_a_key_that_was_published_whole_is_anybodys(key: TestKey) -> None:
    private = get_default_algorithms()[key.algorithm].to_jwk(key.private, as_dict=True)
    assert "d" in private
    document = jwks(RSA, {**key.jwk(), **private, "key_ops": ["verify"]})
    assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA.key_id]


@pytest.mark.parametrize("key_id", ["k", "k" * 200])
def test_ids_that_a_token_can_name(key_id: str) -> None:
    assert list(parse_keys(jwks(RSA.jwk(kid=key_id)), RS256)) == [key_id]


def test_a_key_may_lack_use_and_name_its_operation() -> None:
    published = [RSA.jwk(use=ABSENT), EC256.jwk(use=ABSENT, key_ops=["verify"])]
    assert list(parse_keys(jwks(*published), RS256)) == [RSA.key_id, EC256.key_id]


@pytest.mark.parametrize(
    ("key", "allowed", "algorithm"),
    [
        (RSA, RS256, "RS256"),
        (RSA, frozenset({"PS512", "ES256"}), "PS512"),
        (EC256, EVERY_ALGORITHM, "ES256"),
        (EC384, EVERY_ALGORITHM, "ES384"),
        (ED25519, EVERY_ALGORITHM, "EdDSA"),
        (ED448, EVERY_ALGORITHM, "EdDSA"),
    ],
    ids=lambda value: "" if isinstance(value, frozenset) else str(value),  # a set's text differs between processes
)
def test_a_key_without_alg_takes_the_only_one_that_fits(key: TestKey, allowed: frozenset[str], algorithm: str) -> None:
    keys = parse_keys(jwks(key.jwk(alg=ABSENT)), allowed)
    assert keys[key.key_id].algorithm == algorithm


def test_a_key_without_alg_that_could_serve_several_serves_none() -> None:
    document = jwks(RSA.jwk(alg=ABSENT), RSA_NEXT)
    assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA_NEXT.key_id]


def test_the_same_key_twice_is_one() -> None:
    assert list(parse_keys(jwks(RSA, RSA), RS256)) == [RSA.key_id]


@pytest.mark.parametrize("other", [RSA_NEXT.jwk(kid=RSA.key_id), PSS.jwk(kid=RSA.key_id), EC256.jwk(kid=RSA.key_id)])
def test_two_keys_under_one_id_are_none(other: dict[str, object]) -> None:
    assert list(parse_keys(jwks(RSA, other, RSA, EC384), RS256)) == [EC384.key_id]


def test_an_encryption_key_may_share_the_id() -> None:
    document = jwks(RSA_NEXT.jwk(kid=RSA.key_id, use="enc", alg="RSA-OAEP"), RSA)
    assert parse_keys(document, RS256)[RSA.key_id].public == RSA.private.public_key()


NO_SET: dict[str, Any] = {
    "a page": b"<html>login</html>",
    "an array": b"[]",
    "no keys": b"{}",
    "keys an object": b'{"keys":{}}',
    "nothing in it": b'{"keys":[]}',
    "nothing usable in it": jwks(RSA_WEAK),
    "two documents in one": b'{"keys":[],"keys":[]}',
    "nothing": b"",
}


@pytest.mark.parametrize("case", NO_SET)
def test_no_key_set(case: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - only logged
        parse_keys(NO_SET[case], RS256)
