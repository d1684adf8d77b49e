"""Who is believed from one policy to the next.

An issuer that is defined as before keeps its key set, and callers that were verified stay verified. Of an issuer that
is defined otherwise, or not at all, every cached identity dies in the moment of the change.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import msgspec

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.cache import MAX_BYTES, VerifiedTokens
from ext_authz.identity.jwks import Fetch, KeySet
from ext_authz.identity.tokens import MAX_TOKEN
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.policy.model import Issuer


class PolicyAuthenticator(TokenAuthenticator):
    """The authenticator of one policy, which another policy's may take over from."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        fetch: Fetch,
        clock: Clock,
        cache_size: int,
        cache_bytes: int = MAX_BYTES,
        max_token: int = MAX_TOKEN,
    ) -> None:
        bounds = {"cache_size": cache_size, "cache_bytes": cache_bytes, "max_token": max_token}
        super().__init__(issuers, fetch=fetch, clock=clock, **bounds)
        self._fetch = fetch
        self._bounds = bounds
        self._key_sets: dict[str, KeySet] = {
            issuer.issuer: PolicyKeySet(issuer, fetch=fetch, clock=clock) for issuer in issuers
        }
        self._own = set(self._key_sets)
        """The issuers whose key sets are not shared with the authenticator that this one was made beside."""

    def beside(self, issuers: Sequence[Issuer]) -> PolicyAuthenticator:
        """One for another policy: it shares the key sets of the issuers that both define alike, and nothing else."""
        other = PolicyAuthenticator(issuers, fetch=self._fetch, clock=self._clock, **self._bounds)
        for url, keys in self._key_sets.items():
            if url in other._own and _definition(keys.issuer) == _definition(other._key_sets[url].issuer):
                other._key_sets[url] = keys
                other._own.remove(url)
        return other

    async def fetch_keys(self) -> None:
        """Fetch what is not shared, so that nobody has to wait after the change."""
        await asyncio.gather(*(self._key_sets[url].refresh() for url in self._own))

    def ensure_no_worse_than(self, other: PolicyAuthenticator) -> None:
        """Raises Unavailable when this one has no keys of an issuer of which the other has: the caller waits then."""
        for url in self._own:
            known = other._key_sets.get(url)
            if known is not None and known.usable and not self._key_sets[url].usable:
                raise Unavailable("jwks", f"the keys of issuer {known.issuer.name} cannot be fetched now")

    def take_over(self, other: PolicyAuthenticator) -> None:
        """From here on this one decides. Checks that are under way at the other one find their end there."""
        # The other one goes on without a cache: what it still verifies, under rules of yesterday, is kept by nobody.
        self._verified, other._verified = other._verified, VerifiedTokens(self._clock, 0)
        kept = {id(keys) for keys in self._key_sets.values()}
        for keys in other._key_sets.values():
            if id(keys) not in kept and isinstance(keys, PolicyKeySet):
                keys.retire()
        for gone in other.up().keys() - self.up().keys():
            DEPENDENCY_UP.labels(gone).set(math.nan)
        if other._tending is not None:
            other._tending.cancel()
        other._count()
        self._tending = asyncio.create_task(self._tend(), name="identity")

    async def stop_beside(self) -> None:
        """Let go of what is not shared."""
        for url in self._own:
            await self._key_sets[url].close()

    async def tend_beside(self) -> None:
        """Until cancelled: as `start` does for the one in force, without its metrics."""
        while True:
            for url in self._own:
                self._key_sets[url].tend()
            await asyncio.sleep(1.0)


class PolicyKeySet(KeySet):
    """A key set that a policy can stop believing."""

    def retire(self) -> None:
        """Every identity that these keys verified dies. Who still asks here gets freshly fetched ones."""
        for key in self._keys.values():
            key.trusted_until = -math.inf
        self._keys = {}
        self._next_fetch = -math.inf


def _definition(issuer: Issuer) -> bytes:
    return msgspec.json.encode(issuer, order="deterministic")
