"""Whose tokens an actor may make, see and revoke, and how wide those that they make may be."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from ext_authz.db.postgres import Connection
from ext_authz.identity.api_tokens import MANAGE_REVOCATIONS, MANAGEMENT
from ext_authz.identity.identity import Identity
from ext_authz.owners import store as owners
from ext_authz.policy.model import Policy
from ext_authz.tokens import rows
from ext_authz.tokens.model import Actor, Grant, NotDone, Owner, State, Why
from ext_authz.tokens.reach import Entitled, Reach, ensure_within, reach


class Authority:
    """Raises NotDone. Every method runs in the transaction of its caller."""

    def __init__(self, policy: Policy) -> None:
        self._urls = {issuer.name: issuer.issuer for issuer in policy.issuers}

    async def owner_to_be(self, connection: Connection, actor: Actor, service: str) -> Entitled:
        """Locked. Who was never here comes into being with the verified token that they are here with."""
        identity = actor.identity
        issuer, subject = (self.issuer_of(actor), service) if service else (actor.issuer, actor.subject)
        if not subject:
            raise NotDone(Why.INVALID, "say which service account is to own it", "service")
        found = await rows.entitled(connection, issuer, subject, locked=True)
        if not service and identity is not None and not is_own(identity) and _is_news(identity, found):
            await owners.signed_in(connection, identity)
            found = await rows.entitled(connection, issuer, subject, locked=True)
        if found is None:
            raise not_found()
        ensure_may_issue(actor, found.owner)
        return found

    async def ensure_renewable(self, connection: Connection, actor: Actor, wanted: UUID, now: datetime) -> None:
        """The owner is locked. Who is here with less than the grant has would get more by renewing it."""
        found = await rows.grant(connection, wanted, now)
        if found is None:
            raise not_found()
        owner = found.owner
        entitled = await rows.entitled(connection, owner.issuer, owner.subject, locked=True)
        if entitled is None:
            raise not_found()
        ensure_may_issue(actor, owner)
        identity = actor.identity
        if identity is not None and is_own(identity) and identity.session != str(wanted):
            raise NotDone(Why.FORBIDDEN, "an API token renews itself only: sign in to the console")
        within = await self.reach(connection, actor, entitled, now)
        roles = entitled.roles if found.roles is None else entitled.roles.intersection(found.roles)
        ensure_within("roles", sorted(roles), within.identity.roles)
        ensure_within("scopes", sorted(entitled.scopes.intersection(found.scopes)), within.identity.scopes)

    async def reach(self, connection: Connection, actor: Actor, entitled: Entitled, now: datetime) -> Reach:
        """What tokens of this owner may have, if the actor makes them.

        Raises:
            NotDone: TOO_WIDE, FORBIDDEN.
        """
        owner, models = entitled.owner, None
        if not owner.enabled:
            raise NotDone(Why.FORBIDDEN, "the identity provider has disabled this owner")
        identity = actor.identity if (owner.issuer, owner.subject) == (actor.issuer, actor.subject) else None
        if identity is not None and is_own(identity):
            models = (await _own_grant(connection, identity, now)).models
        management = MANAGEMENT if actor.administrator else MANAGEMENT - {MANAGE_REVOCATIONS}
        return reach(entitled, self._urls.get(owner.issuer, ""), identity, models, management)

    def issuer_of(self, actor: Actor) -> str:
        """The name of the issuer whose people the actor is about.

        Raises:
            NotDone: INVALID, a command did not say, and there are several.
        """
        if actor.issuer or len(self._urls) == 1:
            return actor.issuer or next(iter(self._urls))
        raise NotDone(Why.INVALID, f"say which issuer: one of {', '.join(sorted(self._urls))}", "issuer")


def ensure_no_longer(actor: Actor, expires_at: datetime) -> None:
    identity = actor.identity
    if identity is not None and is_own(identity) and expires_at.timestamp() > identity.expires_at:
        detail = "an API token makes none that outlives it: choose a shorter lifetime, or sign in to the console"
        raise NotDone(Why.TOO_WIDE, detail, "lifetime")


def is_own(identity: Identity) -> bool:
    """Whether the caller is here with an API token."""
    return identity.grant != ""


def manages(actor: Actor, owner: Owner) -> bool:
    """Whether the actor may see and revoke what this owner has."""
    if actor.administrator or _is_self(actor, owner):
        return True
    return owner.issuer == actor.issuer and _is_member(actor, owner)


def ensure_may_issue(actor: Actor, owner: Owner) -> None:
    """Nobody gets a token of another person, administrators neither.

    Raises:
        NotDone: NOT_FOUND where the actor may not know of it, FORBIDDEN.
    """
    if not manages(actor, owner):
        raise not_found()
    if _is_self(actor, owner):
        return
    if owner.kind == "user":
        raise NotDone(Why.FORBIDDEN, "only its owner gets a token of a person: revoke it, or ask them to renew it")
    if actor.identity is not None and is_own(actor.identity):
        raise NotDone(Why.FORBIDDEN, "an API token makes no tokens of service accounts: sign in to the console")


def _is_self(actor: Actor, owner: Owner) -> bool:
    """A service account is only ever here with an API token, whatever an identity provider calls a user."""
    identity = actor.identity
    if owner.kind == "service" and (identity is None or not is_own(identity)):
        return False
    return actor.subject != "" and (actor.issuer, actor.subject) == (owner.issuer, owner.subject)


def _is_member(actor: Actor, owner: Owner) -> bool:
    identity = actor.identity
    return owner.kind == "service" and identity is not None and not is_own(identity) and owner.group in identity.groups


def not_found() -> NotDone:
    """The same for what is not there and for what the actor may not know of."""
    return NotDone(Why.NOT_FOUND, "there is no such thing, or it is not yours")


async def _own_grant(connection: Connection, identity: Identity, now: datetime) -> Grant:
    """Of the API token that the actor is here with."""
    try:
        found = await rows.grant(connection, UUID(identity.session), now)
    except ValueError:
        found = None
    if found is None or found.state is State.REVOKED:
        raise NotDone(Why.FORBIDDEN, "the API token that you are here with is revoked")
    return found


def _is_news(identity: Identity, known: Entitled | None) -> bool:
    """Whether a token says more of its user than is known; one that says less may be of a client that gets less."""
    if known is None:
        return True
    says, held = (identity.roles, identity.groups, identity.scopes), (known.roles, known.groups, known.scopes)
    return says != held and all(more >= less for more, less in zip(says, held, strict=True))
