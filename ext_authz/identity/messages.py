"""Messages that an issuer signs with the keys of its tokens and that let nobody in: logout tokens, security events, and
what the admin console of Keycloak sends. Verified like access tokens; what the claims mean is for `signals/` to say.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.identity.claim_values import Claims
from ext_authz.identity.identity import invalid
from ext_authz.identity.jwks import KeySet
from ext_authz.identity.tokens import ensure_acceptable, read, signed_claims
from ext_authz.policy.issuers import Issuer

MAX_MESSAGE = 16_384
"""Bytes. The longest that Keycloak sends names the sessions of a user, 40 bytes each."""


class Message(Struct, frozen=True):
    """What an issuer signed. `null` is absent."""

    issuer: Issuer
    type: str
    """Of the header, in lower case."""
    claims: Claims


class SignedMessages:
    """Reads messages of the issuers whose key sets these are."""

    def __init__(self, key_sets: Mapping[str, KeySet]) -> None:
        """By `iss`. Whoever has them keeps them current."""
        self._key_sets = key_sets

    async def read(self, text: str, types: frozenset[str], iss: str = "") -> Message:
        """`types`: accepted values of the header `typ`, in lower case. `iss`: of messages that name no issuer.

        Raises:
            Denied: it is none of these, or not signed by a key of its issuer.
            Unavailable: the keys of its issuer cannot be fetched ("jwks").
        """
        token = read(text, MAX_MESSAGE, iss)
        keys = self._key_sets.get(token.issuer)
        if keys is None:
            raise invalid("issuer_unknown", "the message comes from an issuer that is not accepted here")
        accepted = replace(keys.issuer, types=types)
        ensure_acceptable(token, accepted)
        key = await keys.key((token.key_id, token.algorithm))
        claims = {name: value for name, value in signed_claims(token, accepted, key).items() if value is not None}
        if claims.get("iss", iss) != keys.issuer.issuer:
            raise invalid("issuer_unknown", "the message comes from another issuer than its keys")
        return Message(keys.issuer, token.type, claims)
