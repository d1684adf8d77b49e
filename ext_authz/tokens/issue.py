"""Grants are made and renewed here: one transaction each, in the lock order owner, grant, tokens, audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.identity.api_tokens import wrap
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.policy.issuers import OwnTokens
from ext_authz.policy.model import Policy
from ext_authz.revocation import entry
from ext_authz.revocation.store import revoked
from ext_authz.tokens import audit, repeats, rows
from ext_authz.tokens.authority import Authority, ensure_no_longer, not_found
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.model import Actor, Grant, Issued, NewGrant, NotDone, Owner, State, Token, Why
from ext_authz.tokens.reach import ensure_valid, lifetime_of, narrowed

LONGEST_GRACE = timedelta(days=7)
MOST_TOKENS = 5
"""Of one grant at a time: the latest, and those in their grace."""
MOST_ENDED = 5_000
"""Of an owner, replaced before they expired: each worker holds the end of each, in some 60 bytes."""
_DAY = timedelta(days=1)
A_DAY = 50
"""Tokens that are issued to an owner in a day, live or not, for each that the owner may have at a time: all of them can
be renewed twice an hour. A script that makes and revokes in a loop would fill the tables and the audit log."""
LONGEST_CLAIMS = 5_500
"""Bytes of the claims in JSON: the token stays below 8 KiB, which is as much as many proxies take in one header."""


class Made(Struct, frozen=True):
    """A token that is committed, and can be signed."""

    grant: Grant
    token: Token
    kid: str
    ended: tuple[str, ...] = ()
    """`jti` of those that it replaces at once."""

    def claims(self, own: OwnTokens) -> dict[str, Any]:
        """Nothing in them but what Postgres holds."""
        return claims(own, self.grant.owner, self.grant, self.token, str(self.grant.id))


class Work(Struct, frozen=True):
    """One transaction in which a token may be made."""

    connection: Connection
    actor: Actor
    jti: str
    """Of the token, as `kid`, if it is made."""
    kid: str


class Issuing:
    """Raises NotDone, and Unavailable("postgres")."""

    def __init__(self, policy: Policy, own: OwnTokens, pool: Pool, keys: SigningKeys, clock: Clock) -> None:
        self._policy = policy
        self._own = own
        self._pool = pool
        self._keys = keys
        self._clock = clock
        self.authority = Authority(policy)
        self._longest = timedelta(seconds=own.max_lifetime)

    def now(self) -> datetime:
        """In whole seconds, as in tokens."""
        return datetime.fromtimestamp(int(self._clock.now()), UTC)

    async def create(self, actor: Actor, wanted: NewGrant, idempotency_key: str) -> Issued:
        """See `TokenService.create`."""
        wanted = ensure_valid(wanted, self._longest)
        asked = repeats.request(actor, idempotency_key, "create", wanted)

        async def create(work: Work) -> Made:
            entitled = await self.authority.owner_to_be(work.connection, actor, wanted.service)
            within = await self.authority.reach(work.connection, actor, entitled, self.now())
            new = narrowed(wanted, within, self._policy)
            if known := await repeats.earlier(work.connection, asked, work.jti, self.now()):
                made = _same(new, await self._made_before(work.connection, known))
                ensure_no_longer(actor, made.token.expires_at)
                return made
            return await self._create(work, new, entitled.owner)

        return (await self._issued(actor, create))[0]

    async def renew(
        self,
        actor: Actor,
        grant: UUID,
        *,
        grace: timedelta,
        lifetime: timedelta | None,
        version: int | None,
        idempotency_key: str,
    ) -> tuple[Issued, tuple[str, ...]]:
        """With the `jti` of the tokens that end at once."""
        if not timedelta() <= grace <= LONGEST_GRACE:
            raise NotDone(Why.INVALID, "the old token lives on for 0 seconds to 7 days", "grace")
        asked = repeats.request(actor, idempotency_key, "renew", grant, grace, lifetime)

        async def renew(work: Work) -> Made:
            await self.authority.ensure_renewable(work.connection, actor, grant, self.now())
            if known := await repeats.earlier(work.connection, asked, work.jti, self.now()):
                return await self._made_before(work.connection, known)
            held = await self._held(work.connection, grant, version)
            lives = lifetime_of(lifetime or min(held.lifetime, self._longest), self._longest)
            return await self._renew(work, replace(held, lifetime=lives), grace)

        return await self._issued(actor, renew)

    async def _held(self, connection: Connection, wanted: UUID, version: int | None) -> Grant:
        """Locked, as it is to be renewed."""
        now = self.now()
        held = await rows.grant(connection, wanted, now, locked=True)
        if held is None:
            raise not_found()
        ensure_version(held, version)
        if held.state is State.REVOKED:
            raise NotDone(Why.CONFLICT, "it is revoked: make a new one")
        if held.state is State.EXPIRED:
            await self._ensure_few(connection, held.owner)
        if len(_live(held, now)) >= MOST_TOKENS:
            detail = (
                f"it has {MOST_TOKENS} tokens that live on for a grace: wait for the first to end, or renew without one"
            )
            raise NotDone(Why.TOO_MANY, detail)
        return held

    async def _create(self, work: Work, new: NewGrant, owner: Owner) -> Made:
        connection, actor, now = work.connection, work.actor, self.now()
        ensure_no_longer(actor, now + new.lifetime)
        await self._ensure_few(connection, owner)
        grant = Grant(
            id=uuid4(),
            owner=owner,
            name=new.name,
            scopes=new.scopes,
            models=new.models,
            roles=new.roles,
            lifetime=new.lifetime,
            version=1,
            created_at=datetime.fromtimestamp(self._clock.now(), UTC),
            created_by=actor.name,
            expires_at=now + new.lifetime,
        )
        gone = await rows.expire(connection, grant)
        if not await rows.add(connection, grant):
            raise NotDone(Why.CONFLICT, "there is one of this name: choose another, or renew that one", "name")
        details = {"scopes": new.scopes, "models": new.models, "roles": new.roles}
        made = await self._added(work, grant, "grant.created", details)
        for each in gone:
            await audit.record(connection, actor, "grant.replaced", f"grant:{each}", {"name": new.name, "by": grant.id})
        return made

    async def _renew(self, work: Work, held: Grant, grace: timedelta) -> Made:
        now = self.now()
        old = tuple(token.jti for token in _live(held, now))
        await rows.end_tokens(work.connection, old, now + grace)
        await rows.change(work.connection, held)
        details = {"grace": int(grace.total_seconds()), "replaces": old}
        made = await self._added(work, held, "grant.renewed", details)
        return made if grace else replace(made, ended=old)

    async def _added(self, work: Work, grant: Grant, action: str, details: Mapping[str, object]) -> Made:
        connection, actor, now, owner = work.connection, work.actor, self.now(), grant.owner
        await self._ensure_not_too_often(connection, owner, now)
        if await rows.ended(connection, owner, now) >= MOST_ENDED:
            detail = f"{MOST_ENDED} tokens were replaced before they expired: wait, and choose a shorter lifetime"
            raise NotDone(Why.TOO_MANY, detail)
        token = Token(jti=work.jti, issued_at=now, expires_at=now + grant.lifetime, issued_by=actor.name)
        await rows.add_token(connection, grant.id, work.kid, token, actor.address)
        whose = {"name": grant.name, "issuer": owner.issuer, "subject": owner.subject}
        said = {**whose, "token": token.jti, "expires_at": token.expires_at, **details}
        await audit.record(connection, actor, action, f"grant:{grant.id}", said)
        made = Made(await rows.grant(connection, grant.id, now) or grant, token, work.kid)
        if len(msgspec.json.encode(made.claims(self._own))) > LONGEST_CLAIMS:
            detail = "the token would be too long for a header: name fewer models, roles or scopes, or use a pattern"
            raise NotDone(Why.INVALID, detail)
        return made

    async def _made_before(self, connection: Connection, jti: str) -> Made:
        """Raises NotDone: CONFLICT, it has ended."""
        query = "SELECT grant_id, kid FROM tokens WHERE jti = %s"
        row = await (await connection.execute(query, (jti,))).fetchone()
        grant = await rows.grant(connection, row[0], self.now()) if row else None
        if row is None or grant is None:
            raise not_found()
        token = next((token for token in _live(grant, self.now()) if token.jti == jti), None)
        if token is None:
            detail = "the token that was made under this idempotency key has ended: take a new key"
            raise NotDone(Why.CONFLICT, detail, "idempotency_key")
        ended = tuple(old.jti for old in grant.tokens if old.jti != jti and old.ends_at == token.issued_at)
        return Made(grant, token, row[1], ended)

    async def _issued(self, actor: Actor, make: Callable[[Work], Awaitable[Made]]) -> tuple[Issued, tuple[str, ...]]:
        """Signed when it is committed: then nothing can be missing but the signature, and the key is at hand."""
        kid, jti = await self._keys.signing(), str(uuid4())

        async def whole(connection: Connection) -> Made:
            done = await make(Work(connection, actor, jti, kid))
            await _ensure_not_revoked(connection, actor)
            return done

        made = await self._pool.transaction(whole)
        return Issued(made.grant, wrap(await self._keys.sign(made.claims(self._own), made.kid))), made.ended

    async def _ensure_few(self, connection: Connection, owner: Owner) -> None:
        """The owner is locked, so nobody else makes one at the same time."""
        most = self._own.per_owner
        if await rows.live(connection, owner, self.now()) >= most:
            raise NotDone(
                Why.TOO_MANY, f"{most} tokens are as many as an owner may have: revoke one that is not needed"
            )

    async def _ensure_not_too_often(self, connection: Connection, owner: Owner, now: datetime) -> None:
        """By whichever way, and whoever asks for it."""
        most = A_DAY * self._own.per_owner
        earlier = await rows.issued(connection, owner, now - _DAY, most)
        if earlier is not None:
            again = (earlier + _DAY).strftime("%Y-%m-%d %H:%M:%S UTC")
            detail = (
                f"{most} tokens of this owner were made or renewed in 24 hours, which is the most: from {again} again"
            )
            raise NotDone(Why.TOO_MANY, detail)


def claims(own: OwnTokens, owner: Owner, held: Grant | NewGrant, token: Token, session: str) -> dict[str, Any]:
    """RFC 9068 section 2.2, and what Keycloak's access tokens have. The same for the same arguments."""
    bounds = {"models": held.models, "roles": held.roles}
    return {
        "iss": own.issuer.issuer,
        "sub": owner.subject,
        "aud": sorted(own.issuer.audiences),
        "azp": f"{CLIENT}{held.name}",
        "jti": token.jti,
        "sid": session,
        "iat": int(token.issued_at.timestamp()),
        "exp": int(token.expires_at.timestamp()),
        "typ": "Bearer",
        "scope": " ".join(held.scopes),
        "tollgate": {
            "issuer": owner.issuer,
            "kind": owner.kind,
            **{name: names for name, names in bounds.items() if names is not None},
        },
    }


async def _ensure_not_revoked(connection: Connection, actor: Actor) -> None:
    """Again, and last: whose token is revoked while they wait here must get none that was issued after that.

    Raises:
        NotDone: FORBIDDEN.
    """
    if actor.identity is not None:
        (kind,) = await revoked(connection, [(entry.ids(actor.identity), actor.identity.issued_at)])
        if kind is not None:
            raise NotDone(Why.FORBIDDEN, "the token that you are here with is revoked")


def ensure_version(held: Grant, version: int | None) -> None:
    """Raises NotDone (CONFLICT)."""
    if version is not None and version != held.version:
        raise NotDone(Why.CONFLICT, "it was changed since you read it: read it again, then decide", "version")


def _live(grant: Grant, now: datetime) -> list[Token]:
    return [token for token in grant.tokens if min(token.ends_at or token.expires_at, token.expires_at) > now]


def _same(wanted: NewGrant, made: Made) -> Made:
    """Raises NotDone (CONFLICT) where the actor would not get today what was made under this key."""
    had = made.grant
    if (had.scopes, had.models, had.roles) != (wanted.scopes, wanted.models, wanted.roles):
        detail = "what was made under this idempotency key is not what you may have now: take a new key"
        raise NotDone(Why.CONFLICT, detail, "idempotency_key")
    return made
