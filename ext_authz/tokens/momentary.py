"""The token of one call that the console makes for somebody who is signed in: for one model, for a minute.

It is an API token in everything that a check looks at, and no grant: nothing is written, so it is in no list and counts
in no bound. It never leaves the console, but for the door. Why: docs/adr/0050-playground.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.identity.api_tokens import MANAGEMENT, wrap
from ext_authz.policy.issuers import OwnTokens
from ext_authz.policy.model import Policy
from ext_authz.tokens.authority import Authority, is_own
from ext_authz.tokens.issue import claims
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.model import Actor, NewGrant, NotDone, Owner, Token, Why
from ext_authz.tokens.reach import PLAYGROUND, SHORTEST, Reach, narrowed

LIVES = int(SHORTEST.total_seconds())
"""Seconds."""


class Momentary:
    """Raises NotDone, and Unavailable("postgres")."""

    def __init__(self, policy: Policy, own: OwnTokens, pool: Pool, keys: SigningKeys, clock: Clock) -> None:
        self._policy = policy
        self._own = own
        self._pool = pool
        self._keys = keys
        self._clock = clock
        self._authority = Authority(policy)

    async def token(self, actor: Actor, model: str, session: str) -> str:
        """Whether the model may be called is for the door to say. `session`: of whoever has none at the identity
        provider; all calls of a session count as those of one token.

        It says that it was issued when the sign-in's own token was: so whatever revokes that, revokes this.
        """
        identity = actor.identity
        if identity is None or is_own(identity):
            raise NotDone(Why.FORBIDDEN, "sign in to the console to try models")
        within = await self._pool.transaction(lambda asked: self._reach(asked, actor))
        scopes = tuple(sorted(within.identity.scopes - MANAGEMENT))
        held = narrowed(NewGrant(name=PLAYGROUND, lifetime=SHORTEST, scopes=scopes), within, self._policy)
        owner = Owner(issuer=identity.issuer_name, subject=identity.principal.subject)
        issued, expires = (datetime.fromtimestamp(at, UTC) for at in (identity.issued_at, self._clock.now() + LIVES))
        token = Token(jti=str(uuid4()), issued_at=issued, expires_at=expires)
        said = claims(self._own, owner, replace(held, models=(model,)), token, identity.session or session)
        return wrap(await self._keys.sign(said, await self._keys.signing()))

    async def _reach(self, connection: Connection, actor: Actor) -> Reach:
        """As of any API token that they could make now."""
        entitled = await self._authority.owner_to_be(connection, actor, "")
        return await self._authority.reach(connection, actor, entitled, datetime.fromtimestamp(self._clock.now(), UTC))
