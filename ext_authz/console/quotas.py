"""What is left of the limits of a person, a service account or a token: nothing is taken, as by `GET /.tollgate/quota`.

In this process and not at the door, so that it needs no token: nobody has those of others, and who is signed in stays
so while the identity provider is away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import UNSET, Struct
from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.db.postgres import Pool
from ext_authz.decision import Principal, Request
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.identity import Identity
from ext_authz.identity.own_tokens import CLIENT, GrantClaim, of_owner
from ext_authz.phases.context import CheckContext
from ext_authz.phases.quota_reads import LimitDocument, QuotaReads
from ext_authz.policy.model import Policy
from ext_authz.policy.routes import RouteTable
from ext_authz.settlement.model import Settlement
from ext_authz.tokens import rows
from ext_authz.tokens.model import Grant, Owner

_OF_A_TOKEN = frozenset({"token", "client"})
"""What a limit counts by that the sign-in to the console has, and the person's calls have not."""


class Left(Struct, frozen=True):
    """What is left, or why that cannot be said: the page is of use without."""

    limits: Sequence[LimitDocument] = ()
    why: str = ""


class Quotas:
    """Reads them for pages."""

    def __init__(self, policy: Policy, settlement: Settlement, pool: Pool, clock: Clock) -> None:
        self._reads = QuotaReads(policy, RouteTable(policy.routes, policy.failure))
        self._issuers = {issuer.name: issuer for issuer in policy.issuers}
        self._settlement = settlement
        self._pool = pool
        self._clock = clock

    async def of_person(self, identity: Identity, address: str) -> Left:
        """Of all calls together; not the counters of single tokens and clients."""
        return await self._left(identity, address, _is_personal)

    async def of_account(self, owner: Owner) -> Left:
        """Of all calls of a service account."""
        token, claim = _token(owner, at=self._clock.now()), GrantClaim(owner.issuer, owner.kind)
        return await self._of_owner(token, claim, "", _is_personal)

    async def of_grant(self, grant: Grant) -> Left:
        """Of calls with the token that lives longest: in every limit that they count in, those by address from where it
        was last used."""
        latest, owner = max(grant.tokens, key=lambda token: token.ends_at or token.expires_at), grant.owner
        token = replace(
            _token(owner, at=latest.issued_at.timestamp(), name=grant.name, jti=latest.jti),
            session=str(grant.id),
            scopes=frozenset(grant.scopes),
        )
        roles, models = (UNSET if names is None else names for names in (grant.roles, grant.models))
        claim = GrantClaim(owner.issuer, owner.kind, models, roles)
        return await self._of_owner(token, claim, grant.last_used_from, lambda limit: limit.by.get("ip") != "")

    async def _of_owner(
        self, token: Identity, claim: GrantClaim, address: str, shown: Callable[[LimitDocument], bool]
    ) -> Left:
        """As a check makes an identity of an API token."""
        issuer, subject = self._issuers.get(claim.issuer), token.principal.subject
        standing = await self._pool.run(lambda asked: rows.known(asked, claim.issuer, subject))
        if issuer is None or standing is None:
            return Left()
        return await self._left(of_owner(token, claim, standing, issuer), address, shown)

    async def _left(self, identity: Identity, address: str, shown: Callable[[LimitDocument], bool]) -> Left:
        request = Request("GET", "console", "/.tollgate/quota", source=address)
        try:
            read = self._reads.prepared(identity, request, CheckContext(at_ms=int(self._clock.now() * 1000)))
            found = read.document(await self._settlement.settle(read.settle_request))
        except Denied as refusal:
            return Left(why=f"{refusal.detail[:1].upper()}{refusal.detail[1:]}.")
        except Unavailable:
            return Left(why="The counters do not answer now. Load the page again in a minute.")
        return Left([limit for limit in found.limits if limit.remaining is not None and shown(limit)])


def _token(owner: Owner, *, at: float, name: str = "", jti: str = "") -> Identity:
    """Of this owner, issued at this time, as far as quotas go by it."""
    return Identity(
        principal=Principal("", owner.subject, CLIENT + name, (), jti),
        issuer_name=owner.issuer,
        session="",
        issued_at=int(at),
        expires_at=at,
        audiences=(),
        scopes=frozenset(),
        roles=frozenset(),
    )


def _is_personal(limit: LimitDocument) -> bool:
    return _OF_A_TOKEN.isdisjoint(limit.by)
