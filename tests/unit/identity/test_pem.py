"""A public key in PEM: one, of a type that fits, neither weak nor too large."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ext_authz.identity.pem import MAX_PEM, public_keys
from tests.tokens import EC256, EC384, EC521, ED25519, RSA, RSA_WEAK, TestKey
from tests.unit.identity.world import EVERY_ALGORITHM

BLOCK = RSA.pem()
_HEAD, _FOOT = b"-----BEGIN PUBLIC KEY-----\n", b"-----END PUBLIC KEY-----\n"


def algorithms(document: bytes) -> set[str]:
    found = public_keys(document, "web/one", EVERY_ALGORITHM)
    assert all(name == key.name == ("web/one", key.algorithm) for name, key in found.items())
    return {algorithm for _, algorithm in found}


_OF_RSA = "PS256 PS384 PS512 RS256 RS384 RS512"


@pytest.mark.parametrize(
    ("key", "fitting"), [(RSA, _OF_RSA), (EC256, "ES256"), (EC384, "ES384"), (EC521, "ES512")], ids=repr
)
def test_types(key: TestKey, fitting: str) -> None:
    assert algorithms(key.pem()) == set(fitting.split())
    assert algorithms(b"\n" + key.pem().replace(b"\n", b"\r\n") + b"\n\n") == set(fitting.split())


def test_the_older_form_of_rsa() -> None:
    public = RSA.private.public_key()
    assert algorithms(public.public_bytes(Encoding.PEM, PublicFormat.PKCS1)) > {"RS256"}


def test_only_what_the_policy_allows() -> None:
    assert set(public_keys(BLOCK, "k", frozenset({"PS256", "ES256"}))) == {("k", "PS256")}
    with pytest.raises(ValueError, match="not for ES256"):
        public_keys(BLOCK, "k", frozenset({"ES256"}))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        BLOCK + BLOCK,
        b"Proc-Type: 4\n" + BLOCK,
        BLOCK + b"text",
        BLOCK.replace(b"END PUBLIC", b"END RSA PUBLIC"),
        BLOCK.replace(b"PUBLIC KEY", b"CERTIFICATE"),
        _HEAD + b"AAAA\n" + _FOOT,
        _HEAD + b"====\n" + _FOOT,
        RSA.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        _HEAD + b"A" * MAX_PEM + b"\n" + _FOOT,
        "-----BEGIN PUBLIC KEY-----\n\u0661".encode() + _FOOT,
    ],
)
def test_no_key(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not (one|a) public key"):
        public_keys(document, "k", EVERY_ALGORITHM)


@pytest.mark.parametrize("key", [RSA_WEAK, ED25519], ids=repr)
def test_unsafe_or_of_another_type(key: TestKey) -> None:
    with pytest.raises(ValueError, match="too weak"):
        algorithms(key.pem())


def test_a_curve_of_no_algorithm() -> None:
    public = ec.generate_private_key(ec.SECP256K1()).public_key()
    with pytest.raises(ValueError, match="too weak"):
        algorithms(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_an_exponent_that_makes_every_check_expensive() -> None:
    numbers = rsa.RSAPublicNumbers(e=2**65 + 1, n=RSA.private.public_key().public_numbers().n)  # type: ignore[union-attr]
    document = numbers.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="too weak"):
        algorithms(document)
