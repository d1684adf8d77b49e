"""What may be done with grants and their tokens, and by whom. Pages, REST, gRPC and commands only call this.

Nothing here asks the identity provider, so all of it works while that is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import ConfigError
from ext_authz.identity.identity import Identity
from ext_authz.owners import store as owners
from ext_authz.policy.model import Policy
from ext_authz.revocation.operations import Operations
from ext_authz.tokens import accounts, audit, rows
from ext_authz.tokens.accounts import groups_of, new_account
from ext_authz.tokens.audit import AuditPage
from ext_authz.tokens.authority import manages, not_found
from ext_authz.tokens.issue import Issuing
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.model import Actor, Choices, Grant, Issued, NewGrant, NotDone, Owner, Page, State, Why
from ext_authz.tokens.momentary import Momentary
from ext_authz.tokens.paging import ensure_listing, page_of, position_of
from ext_authz.tokens.reach import callable_models
from ext_authz.tokens.revocations import LONGEST_REASON, Revoking, ensure_reason

_AT_ONCE = 100
"""Grants that are revoked in one transaction: far less work than the timeout of Postgres allows."""


class TokenService:
    """Raises NotDone for what may not be, Unavailable where a store does not answer."""

    def __init__(self, policy: Policy, pool: Pool, keys: SigningKeys, operations: Operations, clock: Clock) -> None:
        if policy.tokens is None:
            raise ConfigError("the policy has no section tokens: it says who may have API tokens")
        self._policy = policy
        self._own = policy.tokens
        self._pool = pool
        self._cipher = keys.cipher
        self._issuing = Issuing(policy, policy.tokens, pool, keys, clock)
        self._momentary = Momentary(policy, policy.tokens, pool, keys, clock)
        self._revoking = Revoking(operations, timedelta(seconds=policy.tokens.max_lifetime), self._issuing.now)

    async def signed_in(self, identity: Identity) -> Owner:
        """What their verified token of the identity provider says is what their API tokens can have from now on."""

        async def work(connection: Connection) -> Owner:
            await owners.signed_in(connection, identity)
            found = await rows.entitled(connection, identity.issuer_name, identity.principal.subject)
            if found is None:
                raise not_found()
            return found.owner

        return await self._pool.run(work)

    async def choices(self, actor: Actor, service: str = "") -> Choices:
        """Only what this actor may give."""

        async def work(connection: Connection) -> Choices:
            entitled = await self._issuing.authority.owner_to_be(connection, actor, service)
            within = await self._issuing.authority.reach(connection, actor, entitled, self._issuing.now())
            live = await rows.live(connection, entitled.owner, self._issuing.now())
            return Choices(
                scopes=tuple(sorted(within.identity.scopes)),
                models=callable_models(within, self._policy),
                roles=tuple(sorted(within.identity.roles)),
                max_lifetime=timedelta(seconds=self._own.max_lifetime),
                left=max(0, self._own.per_owner - live),
            )

        return await self._pool.transaction(work)

    async def create(self, actor: Actor, wanted: NewGrant, *, idempotency_key: str = "") -> Issued:
        """A grant with its first token. The same request under the same key gets the same token for 24 hours."""
        return await self._issuing.create(actor, wanted, idempotency_key)

    async def for_one_call(self, actor: Actor, model: str, session: str) -> str:
        """A token that is good for a minute and no grant; see `Momentary.token`."""
        return await self._momentary.token(actor, model, session)

    async def renew(
        self,
        actor: Actor,
        grant: UUID,
        *,
        grace: timedelta,
        lifetime: timedelta | None = None,
        version: int | None = None,
        idempotency_key: str = "",
    ) -> Issued:
        """A new token of the grant. The old one ends after `grace`; without grace it is revoked when this returns.

        After Unavailable("redis") the renewal holds: the same request under the same key gets its token.
        """
        issued, ended = await self._issuing.renew(
            actor, grant, grace=grace, lifetime=lifetime, version=version, idempotency_key=idempotency_key
        )
        if ended:
            await self._revoking.tokens(actor, issued.grant, ended, "renewed without grace")
        return issued

    async def revoke(self, actor: Actor, grant: UUID, *, version: int | None = None, reason: str = "") -> Grant:
        """In force for every check that begins after this returns. To repeat it is safe, also after Unavailable."""
        ensure_reason(reason, LONGEST_REASON)
        held = await self.get(actor, grant)
        (revoked,) = await self._revoking.grants(actor, [held], reason, version)
        return revoked

    async def revoke_token(self, identity: Identity, *, address: str) -> None:
        """One token, by whoever holds it (RFC 7009): its grant and its other tokens live on."""
        who = Actor(via="rest", name="holder of the token", issuer=identity.issuer_name, address=address)
        jti, now = identity.principal.token_id, self._issuing.now()
        held = await self._pool.run(lambda asked: rows.grant(asked, UUID(identity.session), now))
        if held is None:
            raise not_found()

        async def mark(connection: Connection) -> None:
            await rows.entitled(connection, held.owner.issuer, held.owner.subject, locked=True)  # before its tokens
            await rows.end_tokens(connection, [jti], now)
            await audit.record(connection, who, "token.revoked", f"grant:{held.id}", {"jti": jti})

        await self._revoking.tokens(who, held, [jti], "revoked by its holder", mark)

    async def revoke_all(self, actor: Actor, issuer: str, subject: str, *, reason: str = "") -> int:
        """Every grant of an owner that is not revoked, and those made meanwhile; how many there were. The live ones
        first, some at a time, so that any number can be revoked. As `revoke` otherwise."""
        ensure_reason(reason, LONGEST_REASON)
        number = 0
        for state in (State.ACTIVE, State.EXPIRED):
            while held := await self._some_of(actor, issuer, subject, state):
                number += len(await self._revoking.grants(actor, held, reason))
        return number

    async def _some_of(self, actor: Actor, issuer: str, subject: str, state: State) -> Sequence[Grant]:
        wanted = {"issuer": issuer, "subject": subject, "text": "", "state": state, "at": None, "id": None}

        async def work(connection: Connection) -> Sequence[Grant]:
            entitled = await rows.entitled(connection, issuer, subject)
            if entitled is None or not manages(actor, entitled.owner):
                raise not_found()
            return await rows.grants(connection, {**wanted, "limit": _AT_ONCE}, self._issuing.now())

        return await self._pool.run(work)

    async def get(self, actor: Actor, grant: UUID) -> Grant:
        """With its tokens; NOT_FOUND for what is not theirs (administrators: all)."""

        async def work(connection: Connection) -> Grant:
            found = await rows.grant(connection, grant, self._issuing.now())
            if found is None or not manages(actor, found.owner):
                raise not_found()
            return found

        return await self._pool.run(work)

    async def list(
        self,
        actor: Actor,
        *,
        everybody: bool = False,
        issuer: str = "",
        subject: str = "",
        text: str = "",
        state: State | None = None,
        cursor: str = "",
        limit: int = 50,
    ) -> Page:
        """The newest first. `everybody`: for administrators. `subject`: of this owner, else of the actor. `text`: part
        of a name or user name, or the whole of a subject or an id."""
        ensure_listing(limit, text=text, subject=subject, issuer=issuer)
        if everybody and not actor.administrator:
            raise NotDone(Why.FORBIDDEN, "only administrators see the tokens of everybody", "everybody")
        if not everybody:
            issuer, subject = (issuer or actor.issuer, subject) if subject else (actor.issuer, actor.subject)
        wanted = {"issuer": issuer, "subject": subject, "text": text, "state": state or ""}
        listing = f"grants {sorted(wanted.items())}"
        at, last = position_of(self._cipher, listing, cursor) or (None, None)

        async def work(connection: Connection) -> list[Grant]:
            if not everybody:
                await _ensure_manages(connection, actor, issuer, subject)
            page = {**wanted, "at": at, "id": last, "limit": limit + 1}
            return await rows.grants(connection, page, self._issuing.now())

        found = await self._pool.run(work)
        return Page(*page_of(self._cipher, listing, found, limit, lambda it: [it.created_at.isoformat(), str(it.id)]))

    async def service_accounts(self, actor: Actor) -> tuple[Owner, ...]:
        """Of the actor's groups; administrators: all."""
        wanted = None if actor.administrator else sorted(groups_of(actor))
        return await self._pool.run(lambda asked: rows.service_accounts(asked, actor.issuer, wanted))

    async def create_service_account(self, actor: Actor, name: str, group: str, roles: tuple[str, ...]) -> Owner:
        """Its tokens can have these roles, and the scopes of the actor; of a command all that the policy names."""
        owner = new_account(actor, self._issuing.authority.issuer_of(actor), name, group, roles)
        resource = self._policy.resource
        scopes = frozenset(resource.scopes if resource else ()) if actor.identity is None else actor.identity.scopes
        await self._pool.transaction(lambda asked: accounts.add(asked, actor, owner, roles=roles, scopes=scopes))
        return owner

    async def audit(
        self,
        actor: Actor,
        *,
        object: str = "",  # noqa: A002
        who: str = "",
        cursor: str = "",
        limit: int = 50,
    ) -> AuditPage:
        """The newest first; for administrators."""
        if not actor.administrator:
            raise NotDone(Why.FORBIDDEN, "only administrators read the audit log")
        ensure_listing(limit, object=object, who=who)
        listing = f"audit {[object, who]}"
        (before,) = position_of(self._cipher, listing, cursor) or (None,)
        found = await self._pool.run(
            lambda asked: audit.entries(asked, object=object, who=who, before=before, limit=limit + 1)
        )
        return AuditPage(*page_of(self._cipher, listing, found, limit, lambda it: [it.position]))


async def _ensure_manages(connection: Connection, actor: Actor, issuer: str, subject: str) -> None:
    """Raises NotDone (NOT_FOUND)."""
    if actor.administrator:
        return
    entitled = await rows.entitled(connection, issuer, subject)
    known = (issuer, subject) == (actor.issuer, actor.subject) if entitled is None else manages(actor, entitled.owner)
    if not known:
        raise not_found()
