"""Verification of one JWT, without I/O and without state: header, signature, claims, in that order.

token = read(text)                         canonical form, no parameter that brings its own key, claims not yet read
ensure_acceptable(token, issuer)           before a key is looked for: the issuer's algorithms and types only
verify(token, issuer, key, now)            -> Identity, or Denied
"""

from __future__ import annotations

from ext_authz.identity.claims import Claims, identify
from ext_authz.identity.identity import Identity
from ext_authz.identity.jws import Token, malformed, read
from ext_authz.identity.keys import SigningKey
from ext_authz.identity.refusal import invalid
from ext_authz.identity.strict_json import parse_object
from ext_authz.policy.model import Issuer

__all__ = ["ensure_acceptable", "read", "verify"]


def verify(token: Token, issuer: Issuer, key: SigningKey, now: float) -> Identity:
    """The caller behind the token. Safe on its own: it relies on nothing that was checked before.

    Raises:
        Denied: with the first cause found.
    """
    ensure_acceptable(token, issuer)
    _ensure_key_fits(token, key)
    if not key.verifies(token.signing_input, token.signature):
        raise invalid("signature_invalid", "the signature of the token does not match")
    return identify(_claims(token), issuer, key.key_id, now)


def ensure_acceptable(token: Token, issuer: Issuer) -> None:
    """The policy says which algorithms and types there are; the token only says which of them it uses."""
    if token.algorithm not in issuer.algorithms:
        raise invalid("algorithm_refused", f"the token must be signed with {_names(issuer.algorithms)}")
    if token.type not in issuer.types:
        raise invalid("token_type", f"the header of the token must have typ {_names(issuer.types)}")


def _ensure_key_fits(token: Token, key: SigningKey) -> None:
    if token.key_id != key.key_id:
        raise invalid("key_unknown", "the token is signed with a key that its issuer does not publish")
    if token.algorithm != key.algorithm:
        raise invalid("algorithm_refused", "the key named in the token is published for another algorithm")


def _claims(token: Token) -> Claims:
    try:
        return parse_object(token.payload)
    except ValueError:
        raise malformed("claims") from None


def _names(accepted: frozenset[str]) -> str:
    return " or ".join(sorted(accepted))
