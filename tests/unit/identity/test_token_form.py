"""Taking a token apart: one canonical form, and no header parameter that brings its own key or meaning."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ext_authz.errors import Denied
from ext_authz.identity.keys import MAX_KEY_ID
from ext_authz.identity.tokens import MAX_HEADER, MAX_TOKEN, REFUSED_PARAMETERS, read
from tests.tokens import ABSENT, EC256, ISSUER, RSA, TestKey, b64, keycloak_claims, sign, to_json
from tests.unit.identity.world import NOW, ensure_refused, identify, minted

HEADER = {"alg": "RS256", "typ": "JWT", "kid": RSA.key_id}
CLAIMS = to_json(keycloak_claims(NOW))


def parts(token: str) -> list[str]:
    return token.split(".")


def with_signature(change: Callable[[str], str]) -> str:
    header, claims, signature = parts(minted())
    return f"{header}.{claims}.{change(signature)}"


def header_of(raw: bytes) -> str:
    return sign(raw, CLAIMS)


def test_the_parts() -> None:
    text = minted()
    token = read(text)
    assert (token.algorithm, token.key_id, token.type, token.issuer) == ("RS256", RSA.key_id, "jwt", ISSUER)
    assert token.payload == CLAIMS
    assert f"{token.signing_input.decode()}.{b64(token.signature)}" == text


MALFORMED: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "one segment": lambda: "abc",
    "two segments": lambda: ".".join(parts(minted())[:2]),
    "four segments": lambda: minted() + ".e30",
    "five segments, a JWE": lambda: ".".join([*parts(minted()), "e30", "e30"]),
    "an empty signature": lambda: with_signature(lambda _: ""),
    "an empty header": lambda: ".".join(["", *parts(minted())[1:]]),
    "a newline at the end": lambda: minted() + "\n",
    "a newline at the start": lambda: "\n" + minted(),
    "a space in the signature": lambda: with_signature(lambda text: f"{text[:9]} {text[9:]}"),
    "a NUL in the signature": lambda: with_signature(lambda text: f"{text[:9]}\0{text[9:]}"),
    "exclamation marks in the signature": lambda: with_signature(lambda text: f"{text[:9]}!!!!{text[9:]}"),
    "padding": lambda: with_signature(lambda text: text + "=="),
    "one padding character": lambda: with_signature(lambda text: text + "="),
    "the alphabet of base64": lambda: with_signature(lambda text: text.replace("-", "+").replace("_", "/") + "+"),
    "fullwidth letters": lambda: with_signature(lambda text: "\uff21" + text[1:]),
    "a length that no bytes have": lambda: with_signature(lambda text: text[:-1]),
    "header: no object": lambda: header_of(b"[]"),
    "header: a string": lambda: header_of(b'"RS256"'),
    "header: no JSON": lambda: header_of(b"RS256"),
    "header: repeated alg": lambda: header_of(b'{"alg":"none",' + to_json(HEADER)[1:]),
    "header: repeated kid": lambda: header_of(to_json(HEADER)[:-1] + b',"kid":"other"}'),
    "header: 200 levels": lambda: header_of(b'{"a":' + b"[" * 200 + b"]" * 200 + b"," + to_json(HEADER)[1:]),
    "header: no alg": lambda: minted(headers={"alg": ABSENT}),
    "header: alg null": lambda: minted(headers={"alg": None}),
    "header: alg an array": lambda: minted(headers={"alg": ["RS256"]}),
    "header: no kid": lambda: minted(headers={"kid": ABSENT}),
    "header: kid empty": lambda: minted(headers={"kid": ""}),
    "header: kid a number": lambda: minted(headers={"kid": 1}),
    "header: kid too long": lambda: minted(headers={"kid": "k" * 201}),
    "header: no typ": lambda: minted(headers={"typ": ABSENT}),
    "header: typ a number": lambda: minted(headers={"typ": 1}),
    "claims: no object": lambda: sign(to_json(HEADER), b"[]"),
    "claims: repeated sub": lambda: sign(to_json(HEADER), b'{"sub":"root",' + CLAIMS[1:]),
    "claims: Infinity": lambda: minted({"exp": float("inf")}),
    "claims: 1e400": lambda: sign(to_json(HEADER), CLAIMS.replace(str(int(NOW) + 300).encode(), b"1e400")),
    "claims: 2 500 levels": lambda: sign(to_json(HEADER), b'{"a":' + b"[" * 2500 + b"]" * 2500 + b"," + CLAIMS[1:]),
    "claims: nothing but brackets": lambda: sign(to_json(HEADER), b"[" * 20_000),
    "claims: repeated iss": lambda: sign(to_json(HEADER), b'{"iss":"x",' + CLAIMS[1:]),
    "claims: not UTF-8": lambda: sign(to_json(HEADER), CLAIMS[:-1] + b',"x":"\xff"}'),
    "claims: an issuer that is not UTF-8": lambda: sign(to_json(HEADER), CLAIMS.replace(b'"iss":"', b'"iss":"\xff')),
    "claims: cut off": lambda: sign(to_json(HEADER), CLAIMS[:-1]),
    "claims: a byte order mark": lambda: sign(to_json(HEADER), b"\xef\xbb\xbf" + CLAIMS),
    "claims: UTF-16": lambda: sign(to_json(HEADER), CLAIMS.decode().encode("utf-16")),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    ensure_refused(MALFORMED[case](), "token_malformed")


@pytest.mark.parametrize("parameter", sorted(REFUSED_PARAMETERS))
def test_parameters_that_are_never_taken(parameter: str) -> None:
    assert parameter in ensure_refused(minted(headers={parameter: "x"}), "header_refused")
    assert parameter in ensure_refused(minted(headers={parameter: None}), "header_refused")


def test_a_certificate_thumbprint_is_ignored() -> None:
    assert identify(minted(headers={"x5t": "x", "x5t#S256": "y"})).principal.client == "web-app"


def test_the_largest_that_pass() -> None:
    room = MAX_HEADER - len(to_json({**HEADER, "x": ""}))
    read(header_of(to_json({**HEADER, "x": "x" * room})))
    ensure_refused(header_of(to_json({**HEADER, "x": "x" * (room + 1)})), "token_too_large")
    for key_id in ("k", "k" * MAX_KEY_ID):
        assert read(minted(headers={"kid": key_id})).key_id == key_id


def test_the_longest_token() -> None:
    token = f"{b64(to_json(HEADER))}.{b64(CLAIMS + b' ')}."  # the space leaves a length that whole bytes have
    token += "A" * (MAX_TOKEN - len(token))
    assert len(read(token).signature) > 4096
    ensure_refused(token + "A", "token_too_large")


def test_sizes() -> None:
    ensure_refused(minted({"padding": "x" * MAX_TOKEN}), "token_too_large")
    with pytest.raises(Denied, match="token_too_large"):
        read(minted(), max_token=100)
    ensure_refused(minted(headers={"padding": "x" * 1024}), "token_too_large")
    ensure_refused("x" * 2_000_000, "token_too_large")


@pytest.mark.parametrize("key", [RSA, EC256], ids=repr)
def test_only_one_text_per_signature(key: TestKey) -> None:
    """The last character of 256 or 64 bytes carries 4 unused bits: 16 spellings of the same bytes, 15 refused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    good, algorithms = minted(key=key), frozenset({key.algorithm})
    identify(good, key=key, algorithms=algorithms)
    first = alphabet.index(good[-1]) // 16 * 16
    variants = {good[:-1] + alphabet[n] for n in range(first, first + 16)} - {good}
    assert len(variants) == 15
    for variant in variants:
        ensure_refused(variant, "token_malformed", key=key, algorithms=algorithms)


ISSUERS: dict[str, tuple[object, str]] = {
    "absent": (ABSENT, "claim_missing"),
    "null": (None, "claim_missing"),
    "a number": (1, "claim_invalid"),
    "an array": ([ISSUER], "claim_invalid"),
}


@pytest.mark.parametrize("case", ISSUERS)
def test_an_issuer_that_cannot_choose_keys(case: str) -> None:
    value, code = ISSUERS[case]
    ensure_refused(minted({"iss": value}), code)


def test_the_claims_are_read_below_a_good_signature_only() -> None:
    """What is not ours to read is not worth the reading: its faults are not even told."""
    header, _, signature = minted().split(".")
    for broken in (b'{"sub":"root",' + CLAIMS[1:], b'{"a":' + b"[" * 100 + b"]" * 100 + b"," + CLAIMS[1:]):
        ensure_refused(f"{header}.{b64(broken)}.{signature}", "signature_invalid")


def test_half_a_surrogate_pair_does_not_hide_the_issuer() -> None:
    assert read(minted({"x": "\ud800", "y": "\U0001f600"})).issuer == ISSUER
