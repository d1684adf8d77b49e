"""Who opens a page: from a cookie to an actor, and how a browser gets that cookie and loses it.

The identity is that of the latest access token. It is refreshed shortly before that token expires, so that roles stay
fresh; while the identity provider is away, whoever is signed in stays so within the life of the session.
"""

from __future__ import annotations

import hmac
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.api.callers import actor_of
from ext_authz.console.sessions import Session, Sessions, SignedIn
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.policy.issuers import OwnTokens
from ext_authz.revocation import entry
from ext_authz.revocation.store import RevocationStore
from ext_authz.tokens.model import Actor
from ext_authz.tokens.service import TokenService
from ext_authz.web.oidc import IdentityProvider, SessionOver, SignInRefused, Started, Tokens


class Visitor(Struct, frozen=True):
    """Somebody who is signed in."""

    session: Session
    actor: Actor

    @property
    def person(self) -> Actor:
        """For pages about themselves: an administrator sees no more there than anybody."""
        return replace(self.actor, administrator=False)


class Visitors:
    """Raises Unavailable where Postgres does not answer: then nobody is anybody."""

    def __init__(
        self,
        own: OwnTokens,
        sessions: Sessions,
        provider: IdentityProvider,
        authenticator: TokenAuthenticator,
        revocations: RevocationStore,
        service: TokenService,
    ) -> None:
        self._own = own
        self._sessions = sessions
        self._provider = provider
        self._authenticator = authenticator
        self._revocations = revocations
        self._service = service

    async def find(self, cookie: str, address: str) -> Visitor | None:
        """None: nobody is signed in with it, or not any more."""
        session = await self._sessions.find(cookie)
        if session is None:
            return None
        identity = session.signed_in.identity
        # Before a refresh: a token issued after the revocation of its user is not revoked.
        (kind,) = await self._revocations.revoked([(entry.ids(identity), identity.issued_at)])
        if kind is not None or not session.known.enabled:
            await self._sessions.end(cookie)
            return None
        if session.refresh_due and await self._sessions.claim_refresh(session):
            try:
                identity = await self._refreshed(session)
            except (SessionOver, SignInRefused, Denied):
                await self._sessions.end(cookie)
                return None
        identity = session.known.of(identity)
        return Visitor(session, actor_of(identity, self._own, via="console", address=address))

    async def begin(self, following: str) -> tuple[str, Started]:
        """Where to send the browser, and what it has to bring back."""
        return await self._provider.begin(following)

    async def admit(self, code: str, iss: str, started: Started, *, before: str, address: str) -> str:
        """The cookie of a new session; the one `before` ends.

        Raises:
            SignInRefused, Unavailable.
        """
        tokens, subject = await self._provider.redeem(code, iss, started)
        try:
            signed_in = await self._verified(tokens)
        except Denied as refusal:
            raise SignInRefused(f"the access token for the console is not accepted: {refusal.detail}") from None
        if not hmac.compare_digest(signed_in.identity.principal.subject.encode(), subject.encode()):
            raise SignInRefused("ID token and access token name two people")
        await self._service.signed_in(signed_in.identity)
        if before:
            await self._sessions.end(before)
        return await self._sessions.create(signed_in, address)

    async def leave(self, visitor: Visitor, cookie: str, after: str) -> str:
        """Ends the session here, and tells where it is ended at the identity provider."""
        await self._sessions.end(cookie)
        with suppress(Unavailable):
            return await self._provider.signed_out_url(visitor.session.signed_in.id_token, after)
        return after

    async def _refreshed(self, session: Session) -> Identity:
        """As it was, while the identity provider does not answer."""
        kept = session.signed_in
        try:
            tokens = await self._provider.refresh(kept.refresh_token)
            signed_in = await self._verified(tokens)
        except Unavailable:
            return kept.identity
        if signed_in.identity.principal.subject != kept.identity.principal.subject:
            raise SignInRefused("the identity provider answered with another person's token")
        rest = {"id_token": signed_in.id_token or kept.id_token}
        rest["refresh_token"] = signed_in.refresh_token or kept.refresh_token
        signed_in = replace(signed_in, **rest)
        await self._service.signed_in(signed_in.identity)
        await self._sessions.refreshed(session, signed_in)
        return signed_in.identity

    async def _verified(self, tokens: Tokens) -> SignedIn:
        """As any caller's token is.

        Raises:
            Denied, Unavailable.
        """
        identity = await self._authenticator.authenticate((f"Bearer {tokens.access_token}",))
        if identity.issuer_name != self._provider.issuer.name:
            raise SignInRefused("the access token comes from another issuer than the one that was asked")
        return SignedIn(identity, tokens.id_token, tokens.refresh_token)
