"""Who calls an interface for programs: the same verification as in a check, with revocations from Postgres itself."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import HTTPConnection

from ext_authz.clock import Clock
from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import permitted
from ext_authz.phases.client_address import client_behind
from ext_authz.phases.flood_guard import FloodGuard
from ext_authz.policy.issuers import OwnTokens
from ext_authz.revocation import entry
from ext_authz.revocation.store import RevocationStore
from ext_authz.tokens.model import Actor, Via


class Callers:
    """Accepts tokens of the policy's issuers, and API tokens."""

    def __init__(
        self,
        own: OwnTokens,
        authenticator: TokenAuthenticator,
        store: RevocationStore,
        hops: int,
        *,
        guard: FloodGuard | None = None,
        clock: Clock,
    ) -> None:
        """`hops`: proxies in front that add to X-Forwarded-For. `guard`: the check lets everybody come here, so that
        tokens would be tried here without end."""
        self._guard = guard
        self._clock = clock
        self._own = own
        self._authenticator = authenticator
        self._store = store
        self._hops = hops

    async def identity(self, authorization: tuple[str, ...]) -> Identity:
        """Whose token this is.

        Raises:
            Denied: no credential, or one that is not accepted.
            Unavailable: the keys of its issuer, or Postgres, do not answer.
        """
        identity = await self._authenticator.authenticate(authorization)
        (kind,) = await self._store.revoked([(entry.ids(identity), identity.issued_at)])
        if kind is not None:
            raise Denied(Reason.REVOKED, "revoked", "the token is not valid any more: get a new one")
        return identity

    async def caller(self, request: HTTPConnection, scope: str, via: Via) -> Actor:
        """Who sends this request; `scope`: what an API token must have for it. Raises as `identity`."""
        values = tuple(request.headers.getlist("authorization"))
        return await self.actor(values, scope, via, self.address(request))

    async def actor(self, authorization: tuple[str, ...], scope: str, via: Via, address: str) -> Actor:
        """Raises as `identity`, and for an address whose tokens were refused too often Denied, OVER_LIMIT."""
        identity = await self.guarded(authorization, address)
        if identity.grant and scope not in identity.scopes:
            detail = f"this API token may not do that: it takes the scope {scope}"
            raise Denied(Reason.FORBIDDEN, "permission_missing", detail, scope=scope)
        return actor_of(identity, self._own, via=via, address=address)

    async def guarded(self, authorization: tuple[str, ...], address: str) -> Identity:
        """Raises as `actor`. Who has a token that is known to be good never waits."""
        if self._guard is None:
            return await self.identity(authorization)
        now = int(self._clock.now() * 1_000_000)
        if len(authorization) != 1 or self._authenticator.cached(authorization[0]) is None:
            self._guard.check(address, now)
        try:
            return await self.identity(authorization)
        except Denied:
            self._guard.count(address, now)
            raise

    def address(self, request: HTTPConnection) -> str:
        """Of the client, behind the proxies."""
        peer = request.client.host if request.client else ""
        return self.forwarded(peer, request.headers.getlist("x-forwarded-for"))

    def forwarded(self, peer: str, forwarded: Iterable[str]) -> str:
        """`forwarded`: the headers X-Forwarded-For."""
        return client_behind(peer, forwarded, self._hops)


def actor_of(identity: Identity, own: OwnTokens, *, via: Via, address: str) -> Actor:
    """Who has this verified identity."""
    who = identity.username or identity.principal.subject
    return Actor(
        via=via,
        name=f"{who}@{identity.issuer_name}",
        issuer=identity.issuer_name,
        subject=identity.principal.subject,
        identity=identity,
        administrator=permitted(identity, own.administrators),
        address=address,
    )
