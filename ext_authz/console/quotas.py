"""What is left of a person's limits, read as `GET /.tollgate/quota` reads it: nothing is taken.

In this process and not at the door, so that it needs no token of the person, who stays signed in while the identity
provider is away.
"""

from __future__ import annotations

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.decision import Request
from ext_authz.identity.identity import Identity
from ext_authz.phases.context import CheckContext
from ext_authz.phases.quota_reads import LimitDocument, QuotaDocument, QuotaReads
from ext_authz.policy.model import Policy
from ext_authz.policy.routes import RouteTable
from ext_authz.settlement.model import Settlement

_OF_A_TOKEN = frozenset({"token", "client"})
"""What a limit counts by that the sign-in to the console has, and the person's calls have not."""


class Quotas:
    """Raises Denied where it is read too often, Unavailable("redis")."""

    def __init__(self, policy: Policy, settlement: Settlement, clock: Clock) -> None:
        self._reads = QuotaReads(policy, RouteTable(policy.routes, policy.failure))
        self._settlement = settlement
        self._clock = clock

    async def of(self, identity: Identity, address: str) -> QuotaDocument:
        """Without the counters of single tokens and clients."""
        request = Request("GET", "console", "/.tollgate/quota", source=address)
        read = self._reads.prepared(identity, request, CheckContext(at_ms=int(self._clock.now() * 1000)))
        found = read.document(await self._settlement.settle(read.settle_request))
        return replace(found, limits=tuple(limit for limit in found.limits if _is_personal(limit)))


def _is_personal(limit: LimitDocument) -> bool:
    return limit.remaining is not None and _OF_A_TOKEN.isdisjoint(limit.by)
