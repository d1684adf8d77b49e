"""One test per advisory about a JWT library, named after it: the attack of that time, sent to the present code.

Which library an advisory is about does not matter; that nobody can make the same mistake here unnoticed does.
"""

from __future__ import annotations

import hmac
import json
import time
import zlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import HttpFetch
from ext_authz.identity.jwks import KeySet
from ext_authz.identity.keys import parse_keys
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import EC256, ISSUER, RSA, RSA_NEXT, TestKey, b64, jwks, keycloak_claims, sign, to_json
from tests.unit.identity.world import EVERY_ALGORITHM, NOW, an_issuer, checked, ensure_refused, minted, refusal

HEADER: dict[str, Any] = {"alg": "RS256", "typ": "JWT", "kid": RSA.key_id}
CAREFREE = EVERY_ALGORITHM | {"HS256", "none"}
"""A policy as wrong as can be: what must hold even then. (`policy/load.py` refuses such a policy.)"""


def hs256(secret: bytes) -> str:
    signing_input = f"{b64(to_json({**HEADER, 'alg': 'HS256'}))}.{b64(to_json(keycloak_claims(NOW)))}"
    return f"{signing_input}.{b64(hmac.digest(secret, signing_input.encode(), 'sha256'))}"


def public(key: TestKey, encoding: Encoding, form: PublicFormat) -> bytes:
    return key.private.public_key().public_bytes(encoding, form)


def test_cve_2015_9235_alg_none() -> None:
    """jsonwebtoken: no algorithm, no signature, no question."""
    unsigned = f"{b64(to_json({**HEADER, 'alg': 'none'}))}.{b64(to_json(keycloak_claims(NOW)))}"
    ensure_refused(f"{unsigned}.", "token_malformed")
    ensure_refused(f"{unsigned}.{b64(b'x')}", "algorithm_refused")
    ensure_refused(f"{unsigned}.{b64(b'x')}", "algorithm_refused", algorithms=CAREFREE)


@pytest.mark.parametrize("key", [RSA, EC256], ids=repr)
def test_cve_2022_29217_public_key_as_hmac_secret(key: TestKey) -> None:
    """PyJWT < 2.4: public keys in a form that the block list did not know, taken as HMAC secrets."""
    ssh = public(key, Encoding.OpenSSH, PublicFormat.OpenSSH)
    ensure_refused(hs256(ssh), "algorithm_refused")
    ensure_refused(hs256(ssh), "algorithm_refused", algorithms=CAREFREE)


@pytest.mark.parametrize("key", [RSA, EC256], ids=repr)
def test_cve_2024_33663_and_cve_2026_85394_der_public_key_as_hmac_secret(key: TestKey) -> None:
    """python-jose, twice: the same with DER."""
    der = public(key, Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ensure_refused(hs256(der), "algorithm_refused", algorithms=CAREFREE)


def test_cve_2024_37568_algorithm_confusion() -> None:
    """Authlib < 1.3.1: the token chose HS256, the key was a public one."""
    pem = public(RSA, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ensure_refused(hs256(pem), "algorithm_refused", algorithms=CAREFREE)


def test_ghsa_xgmm_8j9v_c9wx_jwk_text_as_hmac_secret() -> None:
    """PyJWT < 2.13: the published JWK, as text, taken as the HMAC secret."""
    for secret in (to_json(RSA.jwk()), json.dumps(RSA.jwk()).encode(), jwks(RSA)):
        ensure_refused(hs256(secret), "algorithm_refused", algorithms=CAREFREE)
    # nor does a symmetric key that somebody put into the set become one
    symmetric = {"kty": "oct", "kid": "s", "alg": "HS256", "use": "sig", "k": b64(b"0123456789abcdef0123456789abcdef")}
    assert {kid for kid, _ in parse_keys(to_json({"keys": [symmetric, RSA.jwk()]}), CAREFREE)} == {RSA.key_id}


def test_ghsa_jq35_7prp_9v3f_allow_list_bypassed_by_the_key() -> None:
    """PyJWT < 2.13: with a PyJWK, the algorithm of the key won over the caller's allow-list."""
    ensure_refused(minted(key=EC256), "algorithm_refused", key=EC256, algorithms=frozenset({"RS256"}))
    disguised = sign(to_json({**HEADER, "kid": EC256.key_id}), to_json(keycloak_claims(NOW)), EC256)
    ensure_refused(disguised, "algorithm_refused", key=EC256, algorithms=frozenset({"RS256"}))


async def test_ghsa_993g_76c3_p5m4_key_set_from_a_file() -> None:
    """PyJWT < 2.13: `file://` as the address of a key set."""
    fetch = HttpFetch(1.0)
    keys = KeySet(an_issuer(jwks_url=f"file://{__file__}"), fetch=fetch, clock=FakeClock())
    await keys.refresh()
    assert not keys.usable
    await fetch.aclose()


async def test_ghsa_fhv5_28vv_h8m8_failed_fetch_wiped_the_keys() -> None:
    """PyJWT < 2.13: one made-up kid while the issuer was down cost every user their keys."""
    endpoint = FakeJwks(RSA)
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=FakeClock(), cache_size=0)
    await authenticator.start()
    endpoint.down = True
    with pytest.raises(Exception, match="jwks"):
        await authenticator.authenticate((f"Bearer {minted(headers={'kid': 'made-up'})}",))
    assert (await authenticator.authenticate((f"Bearer {minted()}",))).principal.issuer
    await authenticator.stop()


def test_ghsa_w7vc_732c_9m39_b64_false() -> None:
    """PyJWT < 2.13: a detached, unencoded payload as a way to burn time."""
    ensure_refused(minted(headers={"b64": False, "crit": ["b64"]}), "header_refused")
    ensure_refused(minted(headers={"b64": False}), "header_refused")


@pytest.mark.parametrize("critical", [["b64"], ["exp"], ["x-unknown"], [], "exp", None])
def test_cve_2026_32597_and_cve_2025_59420_crit_ignored(critical: object) -> None:
    """PyJWT < 2.12 and Authlib: extensions that the token calls critical, and nobody understood."""
    ensure_refused(minted(headers={"crit": critical}), "header_refused")


@pytest.mark.parametrize("issuer", [ISSUER[:-1], ISSUER[8:], "https://", "", ISSUER + "x"])
def test_cve_2024_53861_issuer_by_substring(issuer: str) -> None:
    """PyJWT 2.10.0: `iss` was accepted when it was a part of the right one."""
    ensure_refused(minted({"iss": issuer}), "issuer_unknown")


async def test_cve_2026_27962_key_from_the_token() -> None:
    """Authlib < 1.6.9: without a key of its own it took the one in the header."""
    for headers in ({"jwk": RSA_NEXT.jwk()}, {"jku": "https://evil.example"}, {"x5u": "https://evil.example"}):
        ensure_refused(minted(key=RSA_NEXT, headers={**headers, "kid": RSA.key_id}), "header_refused")
        ensure_refused(minted(key=RSA_NEXT, headers=headers), "header_refused", key=RSA_NEXT)


@pytest.mark.parametrize("part", ["header", "claims", "signature"])
def test_cve_2025_61920_a_segment_of_megabytes(part: str) -> None:
    """Authlib < 1.6.5: 500 MB were decoded before anything was checked."""
    segments = dict(zip(("header", "claims", "signature"), minted().split("."), strict=True))
    segments[part] = "A" * 2_000_000
    token = ".".join(segments.values())
    started = time.process_time()
    ensure_refused(token, "token_too_large")
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("token_type", ["JWT", "JWE"])
def test_cve_2024_33664_and_cve_2024_28102_compression_bomb(token_type: str) -> None:
    """python-jose and jwcrypto: a JWE that unpacks to gigabytes. Nothing is decrypted or unpacked here."""
    header = b64(to_json({"alg": "dir", "enc": "A256GCM", "zip": "DEF", "typ": token_type, "kid": RSA.key_id}))
    bomb = b64(zlib.compress(bytes(1_000_000)))
    ensure_refused(f"{header}..{b64(b'iv')}.{bomb}.{b64(b'tag')}", "token_malformed")
    packed = {**HEADER, "zip": "DEF"}
    ensure_refused(sign(to_json(packed), zlib.compress(to_json(keycloak_claims(NOW)))), "header_refused")


def test_cve_2022_21449_psychic_signature() -> None:
    """Java: ECDSA with r = s = 0 matched everything. Nor do other values that are out of range."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    unsigned = minted(key=EC256).rpartition(".")[0]
    for r, s in ((0, 0), (1, 0), (0, 1), (order, order), (order, 0), (1, order)):
        forged = f"{unsigned}.{b64(r.to_bytes(32) + s.to_bytes(32))}"
        ensure_refused(forged, "signature_invalid", key=EC256, algorithms=frozenset({"ES256"}))


def test_infinite_exp_and_bottomless_json_raise_nothing_else() -> None:
    """PyJWT <= 2.13 let OverflowError and RecursionError through: a 500, where the mesh may fail open."""
    for exp in (b"Infinity", b"1e400", b"[" * 2500 + b"]" * 2500):
        claims = b'{"iss":"%s","exp":%s}' % (ISSUER.encode(), exp)
        ensure_refused(sign(to_json(HEADER), claims), "token_malformed")


async def test_five_unknown_keys_made_five_fetches() -> None:
    """Earlier PyJWKClients: every made-up kid was another request to the issuer."""
    endpoint = FakeJwks(RSA)
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=FakeClock(), cache_size=10)
    await authenticator.start()
    for n in range(5):
        token = minted(headers={"kid": f"made-up-{n}"})
        checked(await refusal(authenticator, f"Bearer {token}"), "key_unknown")
    assert endpoint.asked == 2
    await authenticator.stop()
