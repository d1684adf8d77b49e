"""One DPoP proof, and every way to make a wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ext_authz.errors import Denied
from ext_authz.identity.proof import MAX_PROOF, Presented, Proof, normalised, verify
from ext_authz.policy.issuers import Proofs
from tests.dpop import Holder
from tests.fakes import FakeClock
from tests.tokens import ABSENT, EC256, EC384, ED448, ED25519, PSS, RSA, RSA_NEXT, RSA_WEAK, TestKey, b64, mint, sign
from tests.unit.identity.world import checked

NOW = FakeClock().now()
URL = "https://models.example/v2/models/sentiment/infer"
TOKEN = mint(now=NOW)
HOLDER = Holder()
RULES = Proofs(max_age=60)
LEEWAY = 5


def verified(proof: str, holder: Holder = HOLDER, *, url: str = URL, method: str = "POST", now: float = NOW) -> Proof:
    return verify(proof, Presented(method, normalised(url), TOKEN, holder.thumbprint), RULES, LEEWAY, now)


def made(claims: dict[str, object] | None = None, header: dict[str, object] | None = None, **more: TestKey) -> str:
    return HOLDER.proof("POST", URL, TOKEN, claims, header=header, now=NOW, **more)


@pytest.mark.parametrize("key", [EC256, EC384, ED25519, ED448, RSA, PSS], ids=str)
def test_a_good_proof(key: TestKey) -> None:
    holder = Holder(key)
    proof = verified(holder.proof("POST", URL, TOKEN, {"jti": "7"}, now=NOW), holder)
    assert (len(proof.id), proof.nonce) == (43, "")


def test_the_thumbprint_of_the_standard() -> None:
    """RFC 7638 section 3.1: its key and what it says about it."""
    from ext_authz.identity.keys import embedded_key

    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    key = embedded_key({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}, "RS256")
    assert key
    assert key.key_id == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_two_proofs_are_two_and_one_is_one() -> None:
    one, again, other = (verified(made({"jti": jti})).id for jti in ("a", "a", "b"))
    assert one == again != other
    another = Holder(ED25519)
    assert verified(another.proof("POST", URL, TOKEN, {"jti": "a"}, now=NOW), another).id != one


def test_a_nonce_is_passed_on() -> None:
    assert verified(made({"nonce": "abc"})).nonce == "abc"


@pytest.mark.parametrize("header", [{"typ": "DPOP+jwt"}, {"kid": "7"}])
def test_headers_that_do_not_matter(header: dict[str, object]) -> None:
    verified(made(header=header))


def private() -> dict[str, object]:
    return {"jwk": {**HOLDER.jwk, "d": b64(b"0" * 32)}}


HMAC = {"kty": "oct", "k": b64(b"secret" * 8)}
ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (lambda: "x", "proof_malformed"),
    "two segments": (lambda: "a.b", "proof_malformed"),
    "four segments": (lambda: made() + ".x", "proof_malformed"),
    "a trailing space": (lambda: made() + " ", "proof_malformed"),
    "padded base64": (lambda: made() + "=", "proof_malformed"),
    "another spelling of base64": (lambda: _respelled(made()), "proof_malformed"),
    "impossible base64": (lambda: "a." + made().partition(".")[2], "proof_malformed"),
    "too long": (lambda: made({"x": "x" * MAX_PROOF}), "proof_malformed"),
    "a header that is no JSON": (lambda: sign(b"{", b"{}", EC256), "proof_malformed"),
    "a header with a name twice": (lambda: _twice(made()), "proof_malformed"),
    "a payload that is no object": (lambda: _with_payload(b"[]"), "proof_malformed"),
    "a payload with a name twice": (lambda: _with_payload(b'{"htm":"GET","htm":"POST"}'), "proof_malformed"),
    "the type of an access token": (lambda: made(header={"typ": "at+jwt"}), "proof_malformed"),
    "JWT": (lambda: made(header={"typ": "JWT"}), "proof_malformed"),
    "no type": (lambda: made(header={"typ": ABSENT}), "proof_malformed"),
    "a type that is no text": (lambda: made(header={"typ": ["dpop+jwt"]}), "proof_malformed"),
    "the access token as its own proof": (lambda: TOKEN, "proof_malformed"),
    "crit": (lambda: made(header={"crit": ["exp"]}), "proof_malformed"),
    "b64": (lambda: made(header={"b64": False}), "proof_malformed"),
    "jku": (lambda: made(header={"jku": "https://evil.example"}), "proof_malformed"),
    "x5c": (lambda: made(header={"x5c": ["MII"]}), "proof_malformed"),
    "alg none": (lambda: made(header={"alg": "none"}), "proof_algorithm"),
    "no alg": (lambda: made(header={"alg": ABSENT}), "proof_algorithm"),
    "HS256": (lambda: made(header={"alg": "HS256"}), "proof_algorithm"),
    "HS256 with its own secret": (lambda: made(header={"alg": "HS256", "jwk": HMAC}), "proof_algorithm"),
    "an algorithm that the policy leaves out": (lambda: made(header={"alg": "RS512"}), "proof_algorithm"),
    "a list of algorithms": (lambda: made(header={"alg": ["ES256"]}), "proof_algorithm"),
    "no key": (lambda: made(header={"jwk": ABSENT}), "proof_key"),
    "a key as text": (lambda: made(header={"jwk": json.dumps(HOLDER.jwk)}), "proof_key"),
    "a private key": (lambda: made(header=private()), "proof_key"),
    "a symmetric key": (lambda: made(header={"jwk": HMAC}), "proof_key"),
    "a key of an unknown type": (lambda: made(header={"jwk": {**HOLDER.jwk, "kty": "X"}}), "proof_key"),
    "a key without its type": (lambda: made(header={"jwk": {"x": "1", "y": "2"}}), "proof_key"),
    "half a key": (lambda: made(header={"jwk": {**HOLDER.jwk, "y": None}}), "proof_key"),
    "a number in the key": (lambda: made(header={"jwk": {**HOLDER.jwk, "x": 1}}), "proof_key"),
    "a point off the curve": (lambda: made(header={"jwk": {**HOLDER.jwk, "x": b64(b"1" * 32)}}), "proof_key"),
    "a key of another curve": (lambda: made(header={"jwk": Holder(EC384).jwk}), "proof_key"),
    "a key for another algorithm": (lambda: made(header={"jwk": Holder(RSA).jwk}), "proof_key"),
    "a weak key": (lambda: Holder(RSA_WEAK).proof("POST", URL, TOKEN, now=NOW), "proof_key"),
    "another key": (lambda: Holder(RSA_NEXT).proof("POST", URL, TOKEN, now=NOW), "proof_key"),
    "the right key, signed by another": (lambda: made(key=ED25519, header={"alg": "ES256"}), "proof_signature"),
    "a changed payload": (lambda: _changed(made()), "proof_signature"),
    "no signature": (lambda: made().rpartition(".")[0] + ".AA", "proof_signature"),
    "another method": (lambda: made({"htm": "GET"}), "proof_mismatch"),
    "the method in lower case": (lambda: made({"htm": "post"}), "proof_mismatch"),
    "no method": (lambda: made({"htm": ABSENT}), "proof_malformed"),
    "another path": (lambda: made({"htu": URL + "/x"}), "proof_mismatch"),
    "another host": (lambda: made({"htu": "https://evil.example/v2/models/sentiment/infer"}), "proof_mismatch"),
    "another scheme": (lambda: made({"htu": URL.replace("https", "http")}), "proof_mismatch"),
    "another port": (lambda: made({"htu": URL.replace(".example", ".example:8443")}), "proof_mismatch"),
    "only the path": (lambda: made({"htu": "/v2/models/sentiment/infer"}), "proof_mismatch"),
    "user info": (lambda: made({"htu": URL.replace("//", "//models.example@")}), "proof_mismatch"),
    "another user": (lambda: made({"htu": URL.replace("//", "//x@")}), "proof_mismatch"),
    "a number as address": (lambda: made({"htu": 7}), "proof_malformed"),
    "no address": (lambda: made({"htu": ABSENT}), "proof_malformed"),
    "the hash of another token": (lambda: HOLDER.proof("POST", URL, "other", now=NOW), "proof_mismatch"),
    "a hash that is no base64": (lambda: made({"ath": "\u00e9\ud800"}), "proof_mismatch"),
    "no hash: one for the token endpoint": (lambda: HOLDER.proof("POST", URL, now=NOW), "proof_malformed"),
    "no id": (lambda: made({"jti": ABSENT}), "proof_malformed"),
    "a number as id": (lambda: made({"jti": 7}), "proof_malformed"),
    "a number as nonce": (lambda: made({"nonce": 7}), "proof_malformed"),
    "no time": (lambda: made({"iat": ABSENT}), "proof_malformed"),
    "a text as time": (lambda: made({"iat": str(int(NOW))}), "proof_malformed"),
    "true as time": (lambda: made({"iat": True}), "proof_malformed"),
    "a time without end": (lambda: made({"iat": 1e300}), "proof_malformed"),
    "from the past": (lambda: made({"iat": NOW - 60 - LEEWAY - 1}), "proof_expired"),
    "from the future": (lambda: made({"iat": NOW + LEEWAY + 1}), "proof_expired"),
}


def _respelled(proof: str) -> str:
    """86 characters of a signature have 4 bits that say nothing: any other value of them is the same bytes."""
    return proof[:-1] + chr(ord(proof[-1]) + 1)


def _twice(proof: str) -> str:
    _, payload, _ = proof.split(".")
    header = b'{"typ":"dpop+jwt","typ":"dpop+jwt"}'
    return f"{b64(header)}.{payload}.{b64(b'x' * 64)}"


def _with_payload(payload: bytes) -> str:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": HOLDER.jwk}
    return sign(json.dumps(header).encode(), payload, EC256)


def _changed(proof: str) -> str:
    header, _, signature = proof.split(".")
    return f"{header}.{made().split('.')[1]}.{signature}"


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack: str) -> None:
    make, code = ATTACKS[attack]
    with pytest.raises(Denied) as refused:
        verified(make())
    checked(refused.value, code)


@pytest.mark.parametrize(
    ("key", "algorithm"), [(EC384, "ES256"), (EC256, "ES384"), (EC256, "RS256"), (RSA, "ES256"), (ED25519, "ES256")]
)
def test_a_key_signs_with_its_own_algorithm(key: TestKey, algorithm: str) -> None:
    """Even the key that the token is bound to."""
    holder = Holder(key)
    with pytest.raises(Denied) as refused:
        verified(holder.proof("POST", URL, TOKEN, header={"alg": algorithm}, now=NOW), holder)
    assert "plain public key" in checked(refused.value, "proof_key")


@pytest.mark.parametrize("late", [-LEEWAY, 0, 60 + LEEWAY])
def test_the_window(late: int) -> None:
    verified(made({"iat": NOW - late}))


def test_a_request_whose_address_no_proof_can_name() -> None:
    with pytest.raises(Denied) as refused:
        verify(made({"htu": ""}), Presented("POST", "", TOKEN, HOLDER.thumbprint), RULES, LEEWAY, NOW)
    assert refused.value.code == "proof_mismatch"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("HTTPS://Models.Example/a", "https://models.example/a"),
        ("https://models.example", "https://models.example/"),
        ("https://models.example:443/a", "https://models.example/a"),
        ("https://models.example:0443/a", "https://models.example/a"),
        ("http://models.example:80/a", "http://models.example/a"),
        ("http://models.example:443/a", "http://models.example:443/a"),
        ("https://models.example/a?x=1#y", "https://models.example/a"),
        ("https://models.example/%7ea%2fb%2D", "https://models.example/~a%2Fb-"),
        ("https://models.example/A/B", "https://models.example/A/B"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://127.0.0.1:10000/a", "http://127.0.0.1:10000/a"),
    ],
)
def test_addresses(written: str, means: str) -> None:
    assert normalised(written) == means == normalised(means)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "/a",
        "ftp://x/a",
        "https:///a",
        "https://x\\@y/a",
        "https://x/a b",
        "https://x/é",
        "https://x:/a",
        "https://x/a\n",
    ],
)
def test_what_is_no_address(written: str) -> None:
    assert normalised(written) == ""
