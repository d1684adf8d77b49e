"""Signature, algorithm, key: the policy and the key set decide, the token only says what it uses."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ext_authz.errors import Denied
from ext_authz.identity.keys import parse_keys
from ext_authz.identity.tokens import read, verify
from tests.tokens import (
    EC256,
    EC384,
    EC521,
    ED448,
    ED25519,
    PSS,
    RSA,
    RSA_NEXT,
    TestKey,
    b64,
    jwks,
    keycloak_claims,
    sign,
    to_json,
)
from tests.unit.identity.world import EVERY_ALGORITHM, NOW, an_issuer, checked, ensure_refused, identify, minted

KEYS = [
    RSA, PSS, EC256, EC384, EC521, ED25519, ED448,
    TestKey("rsa", "RS384"), TestKey("rsa", "RS512"), TestKey("rsa", "PS384"), TestKey("rsa", "PS512"),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_every_algorithm(key: TestKey) -> None:
    assert identify(minted(key=key), key=key, algorithms=EVERY_ALGORITHM).principal.client == "web-app"


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_every_signature_that_does_not_match(key: TestKey) -> None:
    header, claims, signature = minted(key=key).split(".")
    raw_length = len(signature) * 3 // 4
    other_claims = b64(to_json({**keycloak_claims(NOW), "sub": "root"}))
    for forged in (
        f"{header}.{other_claims}.{signature}",
        f"{header}.{claims}.{b64(bytes(raw_length))}",
        f"{header}.{claims}.{b64(b'x' * raw_length)}",
        f"{header}.{claims}.{b64(b'x')}",
        f"{header}.{claims}.{b64(b'x' * (raw_length + 1))}",
    ):
        ensure_refused(forged, "signature_invalid", key=key, algorithms=EVERY_ALGORITHM)


def test_signed_by_another_key() -> None:
    ensure_refused(minted(key=RSA_NEXT, headers={"kid": RSA.key_id}), "signature_invalid")


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS256", "HS512", "rs256", "RS384", "PS256", "ES256", "RS1"])
def test_only_the_issuers_algorithms(algorithm: str) -> None:
    ensure_refused(minted(headers={"alg": algorithm}), "algorithm_refused")


def test_the_public_key_is_no_hmac_secret() -> None:
    """Even for an issuer whose policy is so wrong that it allows HS256: there is no key for that."""
    header = b64(to_json({"alg": "HS256", "typ": "JWT", "kid": RSA.key_id}))
    claims = b64(to_json(keycloak_claims(NOW)))
    pem = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, to_json(RSA.jwk())):
        signature = b64(hmac.digest(secret, f"{header}.{claims}".encode(), "sha256"))
        ensure_refused(f"{header}.{claims}.{signature}", "algorithm_refused")
        ensure_refused(f"{header}.{claims}.{signature}", "algorithm_refused", algorithms=frozenset({"RS256", "HS256"}))


def test_one_key_one_algorithm() -> None:
    """The policy allows both, the RSA key could do both, but it is published for RS256."""
    token = sign(to_json({"alg": "PS256", "typ": "JWT", "kid": RSA.key_id}), to_json(keycloak_claims(NOW)), PSS)
    ensure_refused(token, "algorithm_refused", algorithms=frozenset({"RS256", "PS256"}))


def test_a_key_under_another_id_is_not_tried() -> None:
    key = parse_keys(jwks(RSA), frozenset({"RS256"}))[RSA.name]
    with pytest.raises(Denied) as refused:
        verify(read(minted(headers={"kid": "other"})), an_issuer(), key, NOW)
    checked(refused.value, "key_unknown")


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_header_types_taken(kind: str) -> None:
    identify(minted(headers={"typ": kind}))


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "JWE", "", "JOSE", "jwt "])
def test_header_types_refused(kind: str) -> None:
    ensure_refused(minted(headers={"typ": kind}), "token_type")


def test_strict_rfc_9068() -> None:
    types = frozenset({"at+jwt", "application/at+jwt"})
    identify(minted(headers={"typ": "at+jwt"}), types=types)
    assert "at+jwt" in ensure_refused(minted(), "token_type", types=types)


def test_signature_before_claims() -> None:
    """A forged token must not learn what the claims should have been."""
    header, _, signature = minted().split(".")
    wrong = b64(to_json({**keycloak_claims(NOW - 9999), "aud": "other", "typ": "ID"}))
    ensure_refused(f"{header}.{wrong}.{signature}", "signature_invalid")


def test_a_low_s_and_its_high_s_are_the_same_caller() -> None:
    """Inherent to ECDSA: (r, n-s) verifies too. So nothing may take the text of a token for its identity."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    good = minted(key=EC256)
    signature = read(good).signature
    r, s = signature[:32], int.from_bytes(signature[32:])
    twin = f"{good.rpartition('.')[0]}.{b64(r + (order - s).to_bytes(32))}"
    algorithms = frozenset({"ES256"})
    assert twin != good
    known, twins = (identify(token, key=EC256, algorithms=algorithms) for token in (good, twin))
    assert (known.principal, known.session, known.issued_at) == (twins.principal, twins.session, twins.issued_at)
