"""Phase 2 without keys: callers by the claims that an operator wrote down, never by a token that anyone sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.identity.claims import Claims, identify
from ext_authz.identity.identity import Identity, invalid
from ext_authz.identity.tokens import bearer_token, single
from ext_authz.policy.model import Issuer

_KEY = "given"
"""Stands for the id of the key that would have signed."""


class _Verified(NamedTuple):
    identity: Identity
    until: float


class GivenCallers:
    """Believes claims as if a good signature stood below them, and reads them as the door does."""

    def __init__(self, issuers: Sequence[Issuer], clock: Clock) -> None:
        self.lost_at: float | None = None
        """Monotonic time since which no issuer confirms its keys, and those in hand are too old."""
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._clock = clock
        self._given: dict[str, Claims] = {}
        self._verified: dict[str, _Verified] = {}

    def present(self, claims: Claims) -> str:
        """The value of an Authorization header that stands for these claims."""
        handle = f"{_KEY}-{len(self._given)}"
        self._given[handle] = claims
        return f"Bearer {handle}"

    def cached(self, authorization: str, _grace: float) -> Identity | None:
        """Who came with the same token before, as long as it lives."""
        verified = self._verified.get(authorization)
        if verified is None or self.lost_at is not None or self._clock.now() >= verified.until:
            return None
        return verified.identity

    async def authenticate(self, authorization: tuple[str, ...], grace: float = 0, /) -> Identity:
        """The caller; the refusals are those of the door, but for what only a signed token can have wrong.

        Raises:
            Denied: no credential, or claims that do not hold.
            Unavailable: "jwks", while no keys are to be had, and the grace is over.
        """
        value = single(authorization)
        claims = self._given.get(bearer_token(value))
        if claims is None:
            raise invalid("token_malformed", "the token cannot be understood")
        issuer = self._issuers.get(str(claims.get("iss")))
        if issuer is None:
            raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")
        identity = identify(claims, issuer, _KEY, self._clock.now())
        if self.lost_at is None:
            self._verified[value] = _Verified(identity, identity.expires_at + issuer.leeway)
            return identity
        if self._clock.monotonic() - self.lost_at >= grace:
            raise Unavailable("jwks", "down, as the test says")
        return replace(identity, degraded="jwks")
