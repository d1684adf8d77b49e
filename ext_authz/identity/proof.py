"""One DPoP proof (RFC 9449 section 4.3): the caller holds the key that the token is bound to. No I/O, no state.

verify(text, what, rules)    form, key, signature, then claims: a `Proof`, or Denied

What remains is what needs memory: whether the proof was used before, and whether its nonce is one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

from msgspec import Struct

from ext_authz.identity.claim_values import if_time
from ext_authz.identity.identity import invalid
from ext_authz.identity.keys import SigningKey, embedded_key
from ext_authz.identity.strict_json import decode_base64url, encode_base64url, parse_object
from ext_authz.identity.tokens import COMPACT, REFUSED_PARAMETERS
from ext_authz.policy.issuers import Proofs

MAX_PROOF = 8192
"""Bytes: one with the longest RSA key that is accepted has some 5000."""
TYPE = "dpop+jwt"

_REFUSED = REFUSED_PARAMETERS - {"jwk"}
_TEXTS = ("htm", "htu", "jti", "ath")
# http(s), host, port, path; then what RFC 9449 ignores. Printable ASCII, no user info, no backslash.
_URL = re.compile(
    r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[!-\"$->@-\[\]-~]*)?(?:[?#][!-~]*)?", re.I
)
_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")


class Presented(Struct, frozen=True):
    """What a proof has to be about."""

    method: str
    url: str
    """As `normalised` returns it; empty: the request has none that a proof could name."""
    token: str
    key: str
    """Thumbprint of the key that the token is bound to."""


class Proof(Struct, frozen=True):
    """One that was verified."""

    id: str
    """Of this use of this key: hash of the thumbprint and `jti`, so that no caller can use up an id of another's."""
    nonce: str
    """Empty: it has none."""


def normalised(url: str) -> str:
    """Without query and fragment, so that equal addresses are equal texts (RFC 3986 sections 6.2.2 and 6.2.3).

    Dot segments stay: a request with some has no route. Empty for what is no address of a server.
    """
    found = _URL.fullmatch(url)
    if found is None:
        return ""
    scheme, host, port, path = found.groups()
    scheme = scheme.lower()
    shown = f":{int(port)}" if port and int(port) != _PORTS[scheme] else ""
    return f"{scheme}://{host.lower()}{shown}{_ESCAPE.sub(_unescaped, path or '/')}"


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def verify(text: str, what: Presented, rules: Proofs, leeway: int, now: float) -> Proof:
    """`text`: the one value of the DPoP header. `leeway`: seconds by which the clocks of both sides may differ.

    Raises:
        Denied: with the first cause that is found.
    """
    if len(text) > MAX_PROOF:
        raise invalid("proof_malformed", f"the DPoP proof is longer than {MAX_PROOF} bytes")
    if COMPACT.fullmatch(text) is None:
        raise invalid("proof_malformed", "the DPoP header is not a JWT: three base64url segments joined by dots")
    header, payload, signature = (_decoded(segment) for segment in text.split("."))
    key = _key(_object(header, "header"), what.key, rules)
    if not key.verifies(text[: text.rindex(".")].encode("ascii"), signature):
        raise invalid("proof_signature", "the signature of the DPoP proof does not match the key in it")
    claims = _object(payload, "payload")
    _ensure_about(claims, what)
    _ensure_recent(claims, rules, leeway, now)
    nonce = claims.get("nonce", "")
    if not isinstance(nonce, str):
        raise invalid("proof_malformed", "the nonce of the DPoP proof is not a string")
    return Proof(encode_base64url(sha256(f"{what.key} {claims['jti']}".encode(errors="surrogatepass")).digest()), nonce)


def _decoded(segment: str) -> bytes:
    try:
        return decode_base64url(segment)
    except ValueError:
        raise invalid("proof_malformed", "the DPoP proof is not in canonical base64url") from None


def _object(raw: bytes, part: str) -> Mapping[str, object]:
    try:
        return parse_object(raw)
    except ValueError:
        raise invalid("proof_malformed", f"the {part} of the DPoP proof must be one plain JSON object") from None


def _key(header: Mapping[str, object], bound_to: str, rules: Proofs) -> SigningKey:
    """The key that the proof brings: the only one that counts, and only if the token is bound to it."""
    kind, algorithm, jwk = header.get("typ"), header.get("alg"), header.get("jwk")
    if not isinstance(kind, str) or kind.lower() != TYPE:
        raise invalid("proof_malformed", f"the header of the DPoP proof must have typ {TYPE}")
    if refused := sorted(_REFUSED & header.keys()):
        raise invalid("proof_malformed", f"the header of the DPoP proof carries {refused[0]}, which is never accepted")
    if not isinstance(algorithm, str) or algorithm not in rules.algorithms:
        accepted = " or ".join(sorted(rules.algorithms))
        raise invalid("proof_algorithm", f"the DPoP proof must be signed with {accepted}")
    if not isinstance(jwk, dict):
        raise invalid("proof_key", "the header of the DPoP proof must have the public key as jwk")
    key = embedded_key(jwk, algorithm)
    if key is None:
        raise invalid("proof_key", f"jwk in the DPoP proof is not a plain public key for {algorithm}")
    if not compare_digest(key.key_id, bound_to):
        raise invalid("proof_key", "the DPoP proof is signed with another key than the one that the token is bound to")
    return key


def _ensure_about(claims: Mapping[str, object], what: Presented) -> None:
    """This call and this token, no other."""
    for name in _TEXTS:
        if not isinstance(claims.get(name), str):
            raise invalid("proof_malformed", f"the DPoP proof must have the claim {name}, as a string")
    if claims["htm"] != what.method:
        raise invalid("proof_mismatch", "htm in the DPoP proof is not the method of this request")
    if not what.url or normalised(str(claims["htu"])) != what.url:
        raise invalid("proof_mismatch", _other_address(what.url))
    if not compare_digest(str(claims["ath"]).encode(errors="replace"), hash_of(what.token).encode()):
        raise invalid("proof_mismatch", "ath in the DPoP proof is not the base64url SHA-256 of the token")


def _other_address(url: str) -> str:
    origin = "/".join(url.split("/")[:3])
    return f"htu in the DPoP proof is not the address of this request: {origin}, then its path without the query"[:160]


def _ensure_recent(claims: Mapping[str, object], rules: Proofs, leeway: int, now: float) -> None:
    issued_at = if_time(claims.get("iat"))
    if issued_at is None:
        raise invalid("proof_malformed", "the DPoP proof must have the claim iat, a time in seconds")
    if issued_at > now + leeway:
        raise invalid("proof_expired", "the DPoP proof was made in the future: the clocks of the two sides differ")
    if issued_at < now - rules.max_age - leeway:
        raise invalid("proof_expired", f"the DPoP proof is older than {rules.max_age} s: make one for each request")


def hash_of(token: str) -> str:
    """`ath` (RFC 9449 section 4.2)."""
    return encode_base64url(sha256(token.encode("ascii")).digest())
