"""Composition root: a table of contents. Every part is built once, in start order, one line each."""

from __future__ import annotations

import os
import random
from asyncio import Event
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from ext_authz.check import Check
from ext_authz.clock import SystemClock
from ext_authz.db.redis import connected
from ext_authz.decision import DecisionIds
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.errors import Unavailable
from ext_authz.identity.fetch import HttpFetch
from ext_authz.observability import multiprocess
from ext_authz.outages import Outages, Probe
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.reload.authenticator import PolicyAuthenticator
from ext_authz.reload.calm import Calm
from ext_authz.reload.rollout import Holding, Order, Role
from ext_authz.reload.shadow import Shadow
from ext_authz.reload.switch import Switch
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.keeper import Keeper
from ext_authz.revocation.known import KnownRevocations
from ext_authz.revocation.mirror import Mirror
from ext_authz.revocation.store import RevocationStore
from ext_authz.settings import Settings
from ext_authz.settlement.model import Settlement, SettleRequest
from ext_authz.settlement.redis import RedisSettlement

_MIRROR_TIMEOUT = 2.0
"""Seconds; nobody waits for the mirror."""


class App:
    """One worker's parts. A server starts it, feeds it messages, asks how it is, and stops it."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when the policy is not whole and valid. Opens no connection yet."""
        policy = load_policy(settings.policy, os.environ)
        self._settings = settings
        clock = SystemClock()
        self._ids = DecisionIds(clock)
        # phase 2: whose tokens are believed
        self._fetch = HttpFetch(settings.jwks_timeout, settings.jwks_ca_file)
        authenticator = PolicyAuthenticator(
            policy.issuers,
            fetch=self._fetch,
            clock=clock,
            cache_size=settings.token_cache_size,
            cache_bytes=settings.token_cache_bytes,
            max_token=settings.max_token_bytes,
        )
        # phase 4: Redis settles; Postgres is asked about revocations only while Redis does not hold them all; what
        # goes on without them is for the policy to say
        self._revocations = RevocationStore(settings.database_url, settings.postgres_timeout)
        self._postgres = Probe("postgres", self._ask_postgres)
        self._without_postgres = False
        self._known = KnownRevocations(clock, poll=settings.revocation_poll)
        self._settlement = RedisSettlement(
            settings.redis_url.get_secret_value(),
            timeout=settings.redis_timeout,
            ledger_max=settings.ledger_max_events,
            revoked_in_postgres=self._revoked_in_postgres,
            known=self._known,
            clock=clock,
            shards=settings.redis_shards,
        )
        # the path through all four phases, and its edge; the policy may be replaced, and another may look on
        self._calm = Calm()
        self._shadow = self._shadow_of(settings) if settings.shadow_policy else None
        self._switch = Switch(policy, authenticator, self._authorizer, self._calm)
        self.check = self._switch.check
        self._outages = Outages(clock, self._lost)

    async def start(self) -> None:
        """Connect. A dependency that is down is not fatal: checks answer 503 and health says why."""
        await self._revocations.start()
        self._postgres.start()
        await self._settlement.start()
        await self._switch.start()
        if self._shadow:
            await self._shadow.start()

    async def stop(self) -> None:
        """Write what is queued, then let go, in reverse order."""
        if self._shadow:
            await self._shadow.stop()
        await self._switch.stop()
        await self._calm.stop()
        await self._fetch.aclose()
        await self._settlement.stop()
        self._known.stop()
        await self._postgres.stop()
        await self._revocations.stop()

    def up(self) -> Mapping[str, bool]:
        """Each dependency of a check, and whether it works."""
        stores = {"redis": self._settlement.up(), "ledger": not self._settlement.ledger_cause()}
        return {**stores, "postgres": not self._postgres.cause, **self._switch.authenticator.up()}

    def lacking(self) -> Collection[str]:
        """Each dependency that keeps checks from a verdict. Not so a Postgres that is away while Redis holds every
        revocation; one that answers and cannot be used does: it is set up wrong, and would be missed later."""
        bearable = {"postgres"} if self._without_postgres else set()
        return {dependency for dependency, works in self.up().items() if not works} - bearable

    async def _ask_postgres(self) -> None:
        try:
            await self._revocations.ensure_usable()
        except Unavailable as failure:
            self._without_postgres = not failure.answers and await self._settlement.holds_all()
            raise

    def causes(self) -> Mapping[str, str]:
        """Each dependency that does not work, and why, in one sentence."""
        redis, ledger = self._settlement.cause(), self._settlement.ledger_cause()
        causes = {"redis": redis, "ledger": ledger, "postgres": self._postgres.cause}
        return {dependency: cause for dependency, cause in causes.items() if cause}

    def degraded(self) -> Mapping[str, str]:
        """Each dependency that is away, and what the policy makes of that."""
        away = self._outages.look(self._switch.policy)
        if self._outages.without_postgres:
            self._known.want()
        return away

    def _lost(self) -> Mapping[str, float | None]:
        redis = None if self._settlement.up() else self._settlement.seen_at()
        return {"redis": redis, **self._known.lost(), **self._switch.authenticator.lost()}

    async def obey(self, order: Order) -> None:
        """Another policy was compiled: in force, or looking on, from now on."""
        if order.role is Role.POLICY:
            await self._switch.obey(order)
        elif self._shadow:
            await self._shadow.obey(order)

    def holding(self) -> Mapping[Role, Holding]:
        """What this worker has of either."""
        shadow = {Role.SHADOW: self._shadow.holding} if self._shadow else {}
        return {Role.POLICY: self._switch.holding, **shadow}

    def _authorizer(self, policy: Policy, authenticator: PolicyAuthenticator) -> Authorizer:
        check = self._check(policy, authenticator, self._settlement)
        responder = Responder(policy.realm, policy.responses, policy.hash)
        observer = partial(self._shadow.observe, policy.hash) if self._shadow else None
        log_allowed = self._settings.log_decisions
        return Authorizer(check, responder, log_allowed=log_allowed, observer=observer)

    def _check(self, policy: Policy, authenticator: PolicyAuthenticator, settlement: Settlement) -> Check:
        return Check(policy, authenticator, settlement, self._ids)

    def _shadow_of(self, settings: Settings) -> Shadow:
        return Shadow(
            self._check,
            beside=lambda: self._switch.authenticator,
            settlement=self._settlement,
            sample=settings.shadow_sample,
            random=random.random,
            clock=SystemClock(),
            calm=self._calm,
            file=multiprocess.directory() / f"shadow-{os.getpid()}.json",
        )

    async def _revoked_in_postgres(self, asks: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        return await self._revocations.revoked([(ask.revocation, ask.issued_at) for ask in asks])


def build(settings: Settings) -> App:
    """What a server's worker calls."""
    return App(settings)


def background(settings: Settings) -> Sequence[Callable[[Event], Awaitable[None]]]:
    """What runs once beside the workers: it keeps Redis, and what the workers know by themselves, equal to Postgres."""

    async def mirror(stop: Event) -> None:
        url, shards = settings.redis_url.get_secret_value(), settings.redis_shards
        async with connected(url, shards=shards, seconds=_MIRROR_TIMEOUT) as clients:
            await Mirror(
                settings.database_url,
                [RevocationCopy(redis, shard) for shard, redis in enumerate(clients)],
                SystemClock(),
                poll=settings.revocation_poll,
                direct_url=settings.database_direct_url,
            ).run(stop)

    keeper = Keeper(settings.database_url, SystemClock(), poll=settings.revocation_poll)
    return [mirror, keeper.run]
