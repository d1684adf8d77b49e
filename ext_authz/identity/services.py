"""Tokens that services sign themselves (ASAP): verified with a key of the service, and used once unless the policy lets
them be used again.

A use is written to the store that all replicas share, after everything else was verified, so that nobody without a key
of the service can use a token up. No answer from that store is 503, whatever the failure mode: nobody else could know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ext_authz.clock import Clock
from ext_authz.identity.asap import use_of
from ext_authz.identity.cache import Verified
from ext_authz.identity.identity import Identity, RefusedToken, invalid
from ext_authz.identity.key_repository import FetchKey, KeyRepository
from ext_authz.identity.replays import Replays
from ext_authz.identity.tokens import Token, ensure_acceptable, identified, signed_claims
from ext_authz.policy.issuers import Issuer


class ServiceTokens:
    """Verifies them. For one event loop."""

    def __init__(
        self, issuers: Sequence[Issuer], fetch: FetchKey | None, clock: Clock, replays: Replays | None, whose: str = ""
    ) -> None:
        """`issuers`: of these the services. `fetch`: None: none is accepted. `replays`: None, for tools that judge a
        token and do not use it, and for a policy that is not in force: no use is looked up or written. `whose`: before
        the names of issuers in metrics and logs."""
        self._clock = clock
        self._replays = replays
        self.repositories = {
            issuer.issuer: KeyRepository(issuer, issuer.asap, fetch=fetch, clock=clock, whose=whose)
            for issuer in issuers
            if issuer.asap and fetch
        }
        """By `iss`."""

    async def verify(self, token: Token, keys: KeyRepository, grace: float) -> Verified:
        """`keys`: of the issuer that the token names. `grace`: as for `KeyRepository.key`.

        Raises:
            Denied
            Unavailable: "jwks", or "redis", for which the token might have been used before.
        """
        issuer = keys.issuer
        ensure_acceptable(token, issuer)
        key = await keys.key((token.key_id, token.algorithm), grace)
        identity = identified(signed_claims(token, issuer, key), issuer, self._clock.now())
        once = not keys.rules.replays
        if once and self._replays is not None:
            await self._use(self._replays, identity)
        return Verified(identity, identity.expires_at + issuer.leeway, key, once=once)

    async def _use(self, replays: Replays, identity: Identity) -> None:
        # For as long as any replica may accept it: the leeway once more between the clocks of two of them.
        left = identity.expires_at + 2 * identity.leeway - self._clock.now()
        if not await replays.first_use(use_of(identity), math.ceil(left) + 1):
            what = "the token was used before, and may be used once: sign a new one, with its own jti, for each call"
            raise RefusedToken(invalid("token_replayed", what), identity)
