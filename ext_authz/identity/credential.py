"""From the Authorization header to one bearer token (RFC 6750 section 2.1, RFC 9110 section 11.6.2)."""

from __future__ import annotations

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.refusal import invalid

MAX_TOKEN = 32_768
"""Bytes, unless TOLLGATE_MAX_TOKEN_BYTES says otherwise: some 500 roles. All headers together are 60 KiB at most in
Envoy unless told otherwise (HttpConnectionManager.max_request_headers_kb)."""


def single(authorization: tuple[str, ...], max_token: int = MAX_TOKEN) -> str:
    """The one value of the header. Two are ambiguous: who would say which of them counts behind us?"""
    if not any(authorization):
        raise Denied(Reason.NO_CREDENTIAL, "credential_missing", "no credential: send Authorization: Bearer <token>")
    if len(authorization) > 1:
        raise _repeated()
    if len(authorization[0]) > len("Bearer ") + max_token:
        raise invalid("token_too_large", f"the token is longer than {max_token} bytes")
    return authorization[0]


def bearer_token(authorization: str) -> str:
    """What follows the scheme and exactly one space; nothing is trimmed or repaired."""
    # Without raw headers Envoy joins repeated ones with a comma, which no bearer token contains.
    if "," in authorization and "bearer" in authorization.lower():
        raise _repeated()
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        # RFC 6750 section 3.1: an unsupported scheme counts as no credential, and is answered without an error code.
        raise Denied(Reason.NO_CREDENTIAL, "scheme_unsupported", "the only Authorization scheme taken is Bearer")
    if not token or token.startswith(" "):
        raise Denied(Reason.INVALID_REQUEST, "credential_malformed", "write Bearer, exactly one space, then the token")
    return token


def _repeated() -> Denied:
    return Denied(Reason.INVALID_REQUEST, "credential_repeated", "more than one credential: send Authorization once")
