"""Composition root: a table of contents. Every part of a worker is built once, in start order, one line each."""

from __future__ import annotations

import asyncio
import os
import random
from asyncio import Event
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from ext_authz.candidate import Candidate, CandidateSettlement
from ext_authz.check import Check
from ext_authz.clock import SystemClock
from ext_authz.db.redis import connect, connected
from ext_authz.decision import DecisionIds
from ext_authz.edge.authorizer import Authorizer, count_from_zero
from ext_authz.edge.measurements import Measurements
from ext_authz.edge.response import Responder
from ext_authz.errors import Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import HttpFetch
from ext_authz.identity.replays import RedisReplays
from ext_authz.observability.tracing import tracer
from ext_authz.owners.known import KnownOwners
from ext_authz.owners.projects import KnownProjects
from ext_authz.policy.issuers import OWN_ISSUER
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.keeper import Keeper
from ext_authz.revocation.known import KnownRevocations
from ext_authz.revocation.mirror import Mirror
from ext_authz.revocation.store import RevocationStore
from ext_authz.server.messages import Difference, Report
from ext_authz.server.sources import Role
from ext_authz.settings import Settings
from ext_authz.settlement.model import Settlement, SettleRequest
from ext_authz.settlement.outages import Outages, Probe
from ext_authz.settlement.redis import RedisSettlement

_MIRROR_TIMEOUT = 2.0
"""Seconds; no check waits for the mirror."""


class App:
    """One worker's parts. A server starts it, feeds it messages, asks how it is, and stops it."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when the policy is not whole and valid. Opens no connection yet."""
        self._settings = settings
        self._clock = SystemClock()
        # phase 1: the policy of this worker
        self._policy = load_policy(settings.policy, os.environ)
        # phase 2: whose tokens are believed
        self._fetch = HttpFetch(settings.jwks_timeout, settings.jwks_ca_file)
        self._revocations = RevocationStore(settings.database_url, settings.postgres_timeout)
        self._owners = self._known_owners() if self._policy.tokens else None
        self._projects = KnownProjects(
            self._policy.issuers, self._revocations.read, self._clock, poll=settings.revocation_poll
        )
        self._replays = self._used_proofs()
        self._authenticator = self._authenticator_of(self._policy)
        # phase 4: Redis settles; Postgres is asked about revocations only while Redis does not hold them all; what
        # goes on without them is for the policy to say
        self._postgres = Probe("postgres", self._ask_postgres)
        self._without_postgres = False
        self._known = KnownRevocations(self._clock, poll=settings.revocation_poll)
        self._settlement = self._redis()
        self._outages = Outages(self._clock, self._policy, self._lost)
        # the path through all four phases, and its edge; a candidate is compared with what it decides
        self._ids = DecisionIds(self._clock)
        self._candidate = self._candidate_of() if settings.candidate_policy else None
        observer = self._candidate.observe if self._candidate else None
        check = self._check_of(self._policy, self._authenticator, self._settlement)
        responder = Responder(self._policy.realm, self._policy.responses, self._policy.hash)
        endpoint = settings.otlp_endpoint
        self._tracer = tracer(endpoint, settings.otlp_ratio, settings.replica) if endpoint else None
        self._measurements = Measurements(self._tracer)
        self.check = Authorizer(
            check, responder, log_allowed=settings.log_decisions, observer=observer, measurements=self._measurements
        ).check
        count_from_zero(self._policy)

    async def start(self) -> None:
        """Connect. A dependency that is down is not fatal: checks answer 503 and health says why."""
        await self._revocations.start()
        self._postgres.start()
        await self._settlement.start()
        if self._owners:
            await self._owners.start()
        if self._projects:
            await self._projects.start()
        await self._authenticator.start()
        if self._candidate:
            await self._candidate.start()

    async def stop(self) -> None:
        """Write what is queued, then let go, in reverse order."""
        self._measurements.publish(self._policy.models)  # first: no connection that does not end may cost counts
        if self._candidate:
            await self._candidate.stop()
        await self._authenticator.stop()
        if self._projects:
            await self._projects.stop()
        if self._owners:
            await self._owners.stop()
        await self._fetch.aclose()
        await self._replays.stop()
        await self._settlement.stop()
        self._known.stop()
        await self._postgres.stop()
        await self._revocations.stop()
        if self._tracer:
            await asyncio.to_thread(self._tracer.stop)

    def report(self) -> Report:
        """Each policy and each dependency of a check: whether it works, why not, and what the policy makes of that."""
        self._measurements.publish(self._policy.models)
        redis, ledger, postgres = self._settlement.cause(), self._settlement.ledger_cause(), self._postgres.cause
        stores = {"redis": self._settlement.up(), "ledger": not ledger, "postgres": not postgres}
        up = {**stores, **self._authenticator.up()}
        causes = {"redis": redis, "ledger": ledger, "postgres": postgres}
        # A Postgres that is away while Redis holds every revocation is bearable; one that answers and cannot be used
        # is not: it is set up wrong, and would be missed later.
        bearable = {"postgres"} if self._without_postgres else set()
        if self._owners:
            causes["owners"] = self._owners.cause()
            up["owners"] = not causes["owners"]
            # What was known before an outage stays in use. Our own keys may come through the door that waits for us.
            bearable |= {"owners"} if self._owners.loaded else set()
            bearable.add(f"jwks:{OWN_ISSUER}")
        if self._projects:
            causes["projects"] = self._projects.cause()
            up["projects"] = not causes["projects"]
            bearable |= {"projects"} if self._projects.loaded else set()
        degraded = self._outages.look()
        if self._outages.without_postgres:
            self._known.want()
        policies, candidate = {Role.POLICY: self._policy.hash}, self._candidate
        return Report(
            policies={**policies, Role.CANDIDATE: candidate.hash} if candidate else policies,
            candidate_faults=candidate.faults if candidate else (),
            up=up,
            lacking=tuple(sorted(name for name, works in up.items() if not works and name not in bearable)),
            causes={name: cause for name, cause in causes.items() if cause},
            degraded=degraded,
        )

    def differences(self) -> Sequence[Difference]:
        """What the candidate decided otherwise since the last call."""
        return self._candidate.differences() if self._candidate else ()

    async def _ask_postgres(self) -> None:
        try:
            await self._revocations.ensure_usable()
        except Unavailable as failure:
            self._without_postgres = not failure.answers and await self._settlement.holds_all()
            raise

    def _lost(self) -> Mapping[str, float | None]:
        redis = None if self._settlement.up() else self._settlement.seen_at()
        return {"redis": redis, **self._known.lost(), **self._authenticator.lost()}

    def _redis(self) -> RedisSettlement:
        return RedisSettlement(
            self._settings.redis_url.get_secret_value(),
            timeout=self._settings.redis_timeout,
            ledger_max=self._settings.ledger_max_events,
            revoked_in_postgres=self._revoked_in_postgres,
            known=self._known,
            clock=self._clock,
            shards=self._settings.redis_shards,
        )

    def _used_proofs(self) -> RedisReplays:
        url, seconds = self._settings.redis_url.get_secret_value(), self._settings.redis_timeout
        shards = range(self._settings.redis_shards)
        return RedisReplays([connect(url, timeout=seconds, shard=shard) for shard in shards], seconds)

    def _authenticator_of(self, policy: Policy, whose: str = "") -> TokenAuthenticator:
        return TokenAuthenticator(
            policy.issuers,
            fetch=self._fetch,
            clock=self._clock,
            cache_size=self._settings.token_cache_size,
            cache_bytes=self._settings.token_cache_bytes,
            max_token=self._settings.max_token_bytes,
            ask=self._fetch.ask,
            fetch_key=self._fetch.key,
            replays=None if whose else self._replays,
            origin=policy.resource.url if policy.resource else "",
            tokens=policy.tokens,
            owners=self._owners if policy.tokens else None,
            projects=self._projects or None,
            whose=whose,
        )

    def _known_owners(self) -> KnownOwners:
        return KnownOwners(self._revocations.read, self._clock, poll=self._settings.revocation_poll)

    def _check_of(self, policy: Policy, authenticator: TokenAuthenticator, settlement: Settlement) -> Check:
        return Check(policy, authenticator, settlement, self._ids)

    def _candidate_of(self) -> Candidate:
        sample = self._settings.candidate_sample

        def build(policy: Policy) -> tuple[Check, TokenAuthenticator]:
            authenticator = self._authenticator_of(policy, whose="candidate:")
            settlement = CandidateSettlement(self._settlement, counts=sample >= 1)
            return self._check_of(policy, authenticator, settlement), authenticator

        load = partial(load_policy, self._settings.candidate_policy or self._settings.policy, os.environ)
        in_force, clock = self._policy.hash, self._clock
        return Candidate(load, build, policy=in_force, sample=sample, random=random.random, clock=clock)

    async def _revoked_in_postgres(self, requests: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        return await self._revocations.revoked([(request.revocation, request.issued_at) for request in requests])


def build(settings: Settings) -> App:
    """What a server's worker calls."""
    return App(settings)


def background(settings: Settings) -> Mapping[str, Callable[[Event], Awaitable[None]]]:
    """Runs once beside the workers: keeps Redis, and the revocations that workers know, equal to Postgres."""

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
    return {"revocation_mirror": mirror, "revocation_list": keeper.run}
