"""Looks up what an identity provider says of users now, and writes it into `owners`: of those first to whom something
happened, then of everybody in turn. The second finds what no event says: events are switched off, or a directory behind
the identity provider has changed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, first
from ext_authz.db.postgres import Connection
from ext_authz.errors import Unavailable
from ext_authz.observability.once import OncePerCause
from ext_authz.owners import store
from ext_authz.poller import polled_owners
from ext_authz.poller.admin_api import Recorded, client_of, quoted
from ext_authz.poller.event_reader import Polled
from ext_authz.poller.metrics import POLL_DUE, POLL_KNOWN, SWEEP_AGE
from ext_authz.poller.polled_owners import NOTHING_KNOWN, Due
from ext_authz.revocation.entry import Kind

log = logging.getLogger(__name__)

BURST = 100.0
"""Requests per second at most while somebody is due."""
SWEEP = 300.0
"""Seconds between two looks at somebody to whom nothing has happened, as far as is known."""
SWEEP_RATE = 10.0
"""Requests per second at most for those: with more of them a sweep takes longer."""
LEARN = 30.0
"""Seconds between two looks for users who have called for the first time."""
AGAIN = 5.0
"""Seconds until somebody is looked up again of whom Keycloak gave no answer that can be used."""
IDLE = 1.0
MEASURE = 5.0
_TOGETHER = 16
"""Users who are looked up at the same time."""


class Pace:
    """No more than so many requests per second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 0.0

    async def wait(self, requests: int, rate: float) -> None:
        now = self._clock.monotonic()
        starts, self._next = max(now, self._next), max(now, self._next) + requests / rate
        await asyncio.sleep(starts - now)


class State(Struct, frozen=True):
    """Of one owner, at the identity provider."""

    enabled: bool
    roles: frozenset[str] | None = frozenset()
    """As the policy reads them; None: it reads some that nobody can be asked for."""
    groups: frozenset[str] | None = frozenset()
    not_before: int = 0
    exists: bool = True


GONE = State(enabled=False, exists=False)


class StateChecker:
    """Of one issuer."""

    def __init__(self, polled: Polled, clock: Clock) -> None:
        self._polled, self._clock = polled, clock
        self._issuer, self._api, self._pool = polled.issuer, polled.api, polled.pool
        claims = polled.issuer.claims
        clients = [client_of(path) for path in claims.roles]
        self._clients = [client for client in clients if client is not None]
        self._all_roles, self._all_groups = len(self._clients) == len(clients), claims.groups == (("groups",),)
        self._pace = Pace(clock)
        self._wanted = asyncio.Event()
        self._learned_at = self._measured_at = -math.inf
        self._failing = ("", math.inf)
        """Why nobody is looked up, and since when."""
        self._recorded = Recorded(admin_events_enabled=True, events_enabled=True)

    def not_polled(self) -> Iterable[str]:
        """What the policy reads of tokens and nobody can be asked for, in sentences."""
        stays = "stay those of the token for as long as it lives"
        if not self._all_roles:
            paths = (".".join(path) for path in self._issuer.claims.roles if client_of(path) is None)
            yield f"roles {stays}, because some are in {', '.join(paths)}, which is neither the realm's nor a client's"
        if not self._all_groups:
            yield f"groups {stays}, because they are in another claim than groups"
        if self._issuer.claims.keep:
            yield f"claims that the policy keeps {stays}"

    def cause(self, late: float) -> str:
        """Why nobody was looked up for so many seconds; empty: it works."""
        why, since = self._failing
        return why if self._clock.monotonic() - since >= late else ""

    def wake(self) -> None:
        """Somebody is due."""
        self._wanted.set()

    async def run(self, end: asyncio.Event) -> None:
        """Until `end`; whatever fails is tried again. Raises Lost where another process does it now."""
        where = f"keycloak: the state of users of {self._issuer.name} is"
        outage = OncePerCause(log, failing=f"{where} not looked up", working=f"{where} looked up again")
        backoff = Backoff(end, outage.worked)
        while not end.is_set():
            try:
                await self._learn()
                if not await self.check_some():
                    await first(end.wait(), self._wanted.wait(), seconds=IDLE)
                    self._wanted.clear()
                await self._measure()
                backoff.succeeded()
                self._failing = ("", math.inf)
            except Unavailable as failure:
                self._failing = (failure.detail, min(self._failing[1], self._clock.monotonic()))
                outage.failed(str(failure))
                await backoff.pause()

    async def check_some(self) -> bool:
        """Look a few up; False where nobody is left."""
        name = self._issuer.name
        some = await self._pool.run(partial(polled_owners.due, issuer=name, most=_TOGETHER))
        if not some:
            some = await self._pool.run(partial(polled_owners.oldest, issuer=name, most=1, age=SWEEP))
        results = await asyncio.gather(*(self._check(one) for one in some), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure
        return bool(some)

    async def _check(self, one: Due) -> None:
        await self._pace.wait(2 + len(self._clients), BURST if one.priority else SWEEP_RATE)
        asked_at = self._clock.now()
        try:
            state = await (self._service(one) if one.is_service else self._user(one))
        except Unavailable as failure:
            if failure.answers:
                postpone = partial(polled_owners.postpone, issuer=self._issuer.name, subject=one.subject, seconds=AGAIN)
                await self._pool.run(postpone)
            raise
        await self._write(one, state, asked_at)

    async def _user(self, one: Due) -> State:
        user = await self._api.user(one.subject)
        if user is None:
            return GONE
        groups, roles = await asyncio.gather(self._api.groups(one.subject), self._roles(f"users/{quoted(one.subject)}"))
        return State(user.enabled, roles, self._named(groups), max(user.not_before, 0))

    async def _service(self, one: Due) -> State:
        """A service account is what its group is."""
        groups = await self._api.group(one.group)
        if not groups:
            return GONE
        roles = await self._roles(*(f"groups/{quoted(group)}" for group in groups))
        return State(enabled=True, roles=roles, groups=self._named([one.group]))

    async def _roles(self, *whose: str) -> frozenset[str] | None:
        found = await asyncio.gather(*(self._api.roles(each, client) for each in whose for client in self._clients))
        return frozenset().union(*found) if self._all_roles else None

    def _named(self, paths: Iterable[str]) -> frozenset[str] | None:
        """By path and by name: tokens have either, as their client is set up."""
        both = (name for path in paths for name in (path, path.rpartition("/")[2]))
        return frozenset(both) if self._all_groups else None

    async def _write(self, one: Due, state: State, asked_at: float) -> None:
        """What changed, in one transaction."""
        skew = self._api.keycloak.skew
        not_before = datetime.fromtimestamp(state.not_before, UTC) if state.not_before else None
        was_there = state.exists or one.enabled is not None

        async def together(connection: Connection) -> None:
            await self._polled.lease.ensure(connection)
            if await self._stored(connection, one, state, skew.latest(asked_at)):
                enabled = state.enabled if was_there else None
                await polled_owners.done(connection, self._issuer.name, one, enabled=enabled, not_before=not_before)

        is_news = was_there and not state.enabled and one.enabled is not False
        ends = asked_at + abs(skew.seconds) if is_news else 0.0  # nobody gets tokens while disabled
        if not_before is not None and (one.not_before is None or not_before > one.not_before):
            ends = max(ends, float(state.not_before))
        needed = ends and not one.is_service
        entries = [self._polled.revocation(Kind.USER, one.subject, ends)] if needed else []
        await self._polled.in_force(entries, together)

    async def _stored(self, connection: Connection, one: Due, state: State, at: float) -> bool:
        """False: an answer to a later question is there; this one is looked up again."""
        if not (state.exists or one.enabled is not None or one.has_grants):
            return True  # perhaps `sub` of its tokens is not the id of a user
        happened = one.priority > NOTHING_KNOWN
        written = await store.polled(
            connection,
            self._issuer.name,
            one.subject,
            roles=state.roles,
            groups=state.groups,
            enabled=state.enabled,
            at=datetime.fromtimestamp(at, UTC),
            event=happened,
        )
        return written or not happened

    async def _learn(self) -> None:
        """Who has called for the first time, and whether the realm keeps events."""
        if self._clock.monotonic() - self._learned_at < LEARN:
            return
        await self._pool.run(partial(polled_owners.learn, issuer=self._issuer))
        self._learned_at = self._clock.monotonic()
        before, self._recorded = self._recorded, await self._api.recorded() or self._recorded
        off = {
            "administrators": before.admin_events_enabled and not self._recorded.admin_events_enabled,
            "users": before.events_enabled and not self._recorded.events_enabled,
        }
        for what in filter(off.get, off):
            detail = f"the realm keeps no events of {what}: of what they do, only states are found, minutes later"
            log.warning("keycloak: events are off", extra={"issuer": self._issuer.name, "detail": detail})

    async def _measure(self) -> None:
        if self._clock.monotonic() - self._measured_at < MEASURE:
            return
        name = self._issuer.name
        waiting = await self._pool.run(partial(polled_owners.waiting, issuer=name))
        POLL_DUE.labels(name).set(waiting.due)
        POLL_KNOWN.labels(name).set(waiting.known)
        SWEEP_AGE.labels(name).set(waiting.age)
        self._measured_at = self._clock.monotonic()
