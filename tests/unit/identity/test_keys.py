"""A key set is read key by key: what cannot serve is left out and costs the others nothing."""

from __future__ import annotations

from typing import Any

import pytest
from jwt.algorithms import get_default_algorithms

from ext_authz.identity.keys import MAX_KEYS, parse_keys
from tests.tokens import ABSENT, EC256, EC384, ED448, ED25519, PSS, RSA, RSA_NEXT, RSA_WEAK, TestKey, jwks, to_json
from tests.unit.identity.world import EVERY_ALGORITHM

RS256 = frozenset({"RS256"})


def nested(depth: int) -> object:
    """An array in an array in an array."""
    return [nested(depth - 1)] if depth else []


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
    "alg an object": RSA_NEXT.jwk(alg={}),
    "a curve of Bitcoin": EC256.jwk(crv="secp256k1", alg="ES256K"),
    "for key agreement": {"kty": "OKP", "crv": "X25519", "kid": "x", "x": "AAAA"},
    "no modulus": RSA_NEXT.jwk(n=ABSENT),
    "modulus a number": RSA_NEXT.jwk(n=7),
    "modulus no base64": RSA_NEXT.jwk(n="!!"),
    "even exponent": RSA_NEXT.jwk(e="Ag"),
    "a long exponent": RSA_NEXT.jwk(e="B" * 20 + "w"),
    "a long modulus": RSA_NEXT.jwk(n="B" * 8192 + "w"),
    "a point off the curve": EC256.jwk(y="A" * 43),
    "a short coordinate": EC256.jwk(x="AAAA"),
    "a short Ed25519 key": ED25519.jwk(x="AAAA"),
    "null": None,
    "a string": "key",
    "an array": [],
    "empty": {},
    "bottomless": RSA_NEXT.jwk(x5c=nested(100)),
}

UNREADABLE = {
    "a repeated name": b'{"kty":"RSA","kty":"RSA"}',
    "a name repeated below": b'{"kty":"RSA","other":{"a":1,"a":1}}',
    "a number of 5000 digits": b'{"kty":"RSA","n":' + b"9" * 5000 + b"}",
    "no UTF-8": b'{"kty":"RSA","kid":"\xff"}',
    "a lone surrogate": rb'{"kty":"RSA","kid":"\ud800"}',
    "a lone surrogate in a name": rb'{"kty":"RSA","\udfff":1}',
    "NaN": b'{"kty":"RSA","iat":NaN}',
    "minus Infinity": b'{"kty":"RSA","iat":-Infinity}',
    "a line break in a text": b'{"kty":"RSA","kid":"a\nb"}',
    "an escape that is none": rb'{"kty":"RSA","kid":"\x41"}',
    "brackets and quotes in a text": rb'{"kty":"RSA","kid":"]}\",[{"}',
    "no value": b'{"kty":"RSA","kid":}',
    "a comma at the end": b'{"kty":"RSA",}',
    "nothing": b"",
    "bottomless": b"[" * 5000 + b"]" * 5000,
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_left_out(case: str) -> None:
    document = to_json({"keys": [LEFT_OUT[case], RSA.jwk()]})
    assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA.name]


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_key_that_cannot_be_read_costs_only_itself(case: str) -> None:
    bad, good = UNREADABLE[case], to_json(RSA.jwk())
    for document in (b'{"keys":[%s,%s]}' % (bad, good), b' {"keys" : [ %s , %s ] , "keys_of":["x"]}\n' % (good, bad)):
        assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA.name]


def test_an_oddity_in_an_unused_member_has_no_effect() -> None:
    odd = to_json(RSA.jwk())[:-1] + rb',"comment":"\ud800"}'
    document = b'{"comment":NaN,"keys":[%s]}' % odd
    assert list(parse_keys(document, RS256)) == [RSA.name]


def test_a_byte_order_mark_in_front_is_passed_over() -> None:
    assert list(parse_keys(b"\xef\xbb\xbf" + jwks(RSA), RS256)) == [RSA.name]


def test_a_set_has_an_end() -> None:
    full: list[dict[str, object]] = [{}] * (MAX_KEYS - 1)
    assert list(parse_keys(jwks(*full, RSA), RS256)) == [RSA.name]
    with pytest.raises(ValueError, match="257 keys: at most 256"):
        parse_keys(jwks(*full, {}, RSA), RS256)


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_one_member_of_a_private_key_is_enough(member: str) -> None:
    document = jwks(RSA, RSA_NEXT.jwk(**{member: "AQAB"}))
    assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA.name]


@pytest.mark.parametrize("key", [RSA_NEXT, EC256, ED25519], ids=repr)
def test_a_key_that_was_published_whole_is_anybodys(key: TestKey) -> None:
    private = get_default_algorithms()[key.algorithm].to_jwk(key.private, as_dict=True)
    assert "d" in private
    document = jwks(RSA, {**key.jwk(), **private, "key_ops": ["verify"]})
    assert list(parse_keys(document, EVERY_ALGORITHM)) == [RSA.name]


@pytest.mark.parametrize("key_id", ["k", "k" * 200])
def test_ids_that_a_token_can_name(key_id: str) -> None:
    assert list(parse_keys(jwks(RSA.jwk(kid=key_id)), RS256)) == [(key_id, "RS256")]


def test_a_key_may_lack_use_and_name_its_operation() -> None:
    published = [RSA.jwk(use=ABSENT), EC256.jwk(use=ABSENT, key_ops=["verify"])]
    assert list(parse_keys(jwks(*published), RS256)) == [RSA.name, EC256.name]


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
    assert list(keys) == [(key.key_id, algorithm)]


@pytest.mark.parametrize("absent", [ABSENT, None])
def test_a_key_without_alg_serves_every_one_that_fits_and_is_taken(absent: object) -> None:
    keys = parse_keys(jwks(RSA.jwk(alg=absent)), frozenset({"RS256", "PS512", "ES256"}))
    assert keys.keys() == {(RSA.key_id, "RS256"), (RSA.key_id, "PS512")}
    assert all(key.name == name and key.public == RSA.private.public_key() for name, key in keys.items())


def test_members_that_are_null_are_absent() -> None:
    """As serialisers write them that know every member."""
    nulls = dict.fromkeys(("use", "key_ops", "crv", "d", "x5c", "k"))
    assert list(parse_keys(jwks(RSA.jwk(**nulls)), RS256)) == [RSA.name]


def test_the_same_key_twice_is_one() -> None:
    assert list(parse_keys(jwks(RSA, RSA), RS256)) == [RSA.name]


@pytest.mark.parametrize("other", [PSS, EC256, ED25519], ids=repr)
def test_one_id_for_several_algorithms_and_types(other: TestKey) -> None:
    keys = parse_keys(jwks(RSA, other.jwk(kid=RSA.key_id)), RS256)
    assert {name: key.public for name, key in keys.items()} == {
        RSA.name: RSA.private.public_key(),
        (RSA.key_id, other.algorithm): other.private.public_key(),
    }


def test_two_keys_under_one_id_and_algorithm_are_none() -> None:
    twin = RSA_NEXT.jwk(kid=RSA.key_id)
    assert list(parse_keys(jwks(RSA, twin, RSA, EC384), RS256)) == [EC384.name]
    # nor are two of which one names its algorithm and the other does not: for that algorithm only
    keys = parse_keys(jwks(RSA, RSA_NEXT.jwk(kid=RSA.key_id, alg=ABSENT)), frozenset({"RS256", "PS256"}))
    assert list(keys) == [(RSA.key_id, "PS256")]


def test_an_encryption_key_may_share_the_id() -> None:
    document = jwks(RSA_NEXT.jwk(kid=RSA.key_id, use="enc", alg="RSA-OAEP"), RSA)
    assert parse_keys(document, RS256)[RSA.name].public == RSA.private.public_key()


NO_SET: dict[str, Any] = {
    "a page": b"<html>login</html>",
    "an array": b"[]",
    "no keys": b"{}",
    "keys an object": b'{"keys":{}}',
    "nothing in it": b'{"keys":[]}',
    "nothing usable in it": jwks(RSA_WEAK),
    "two documents in one": b'{"keys":[],"keys":[]}',
    "nothing": b"",
    "cut off": jwks(RSA)[:-2],
    "cut off after a key": jwks(RSA, RSA_NEXT).rpartition(b",{")[0],
    "the array ends, the object does not": jwks(RSA)[:-1],
    "keys of something else": b'{"other":%s}' % jwks(RSA),
    "a text": b'"{}"',
    "a key of the name keys": b'{"keys":"keys","other":[%s]}' % to_json(RSA.jwk()),
}


@pytest.mark.parametrize("case", NO_SET)
def test_no_key_set(case: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - only logged
        parse_keys(NO_SET[case], RS256)
