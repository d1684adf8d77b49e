"""Makes effective what no signal of Keycloak carries: a user disabled or deleted, a password reset, a role or group
taken away, a session ended by an administrator.

One process of several does it (`db/lease.py`): it reads what happened (`event_reader.py`), and looks up whom that
concerns, then everybody else in turn (`state_checker.py`). docs/adr/0040-poller.md says why, and how soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from datetime import timedelta

from ext_authz.clock import Clock
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.lease import SECONDS, Lease, Lost
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.identity.fetch import http_client
from ext_authz.observability.once import OncePerCause
from ext_authz.policy.issuers import Issuer
from ext_authz.policy.model import Policy
from ext_authz.poller.admin_api import AdminApi
from ext_authz.poller.event_reader import EventReader, Polled
from ext_authz.poller.keycloak import TIMEOUT, Keycloak
from ext_authz.poller.metrics import OF_THE_HOLDER, POLL_EVENTS, POLL_LAG
from ext_authz.poller.realm_events import KINDS
from ext_authz.poller.state_checker import StateChecker
from ext_authz.revocation.operations import Operations
from ext_authz.signals.parts import lifetime_of

log = logging.getLogger(__name__)

LATE = 30.0
"""Seconds without a complete poll after which the process says that it is not ready."""


def poller_of(
    settings: ConsoleSettings, policy: Policy, issuer: Issuer, pool: Pool, operations: Operations, clock: Clock
) -> Poller | None:
    """Of the issuer that people sign in at; None where that is no Keycloak.

    Raises:
        ConfigError: the proxy in the environment is not a URL.
    """
    http = http_client(TIMEOUT, settings.jwks_ca_file)
    secret = settings.console_client_secret.get_secret_value()
    try:
        keycloak = Keycloak(issuer, settings.console_client_id, secret, http=http, clock=clock)
    except ConfigError as wrong:
        log.warning("keycloak: not polled", extra={"issuer": issuer.name, "detail": str(wrong)})
        return None
    lifetime, poll = lifetime_of(policy), settings.console_poll
    return Poller(issuer, keycloak, pool, operations, clock, lifetime=lifetime, poll=poll)


class Poller:
    """Of one issuer."""

    def __init__(
        self,
        issuer: Issuer,
        keycloak: Keycloak,
        pool: Pool,
        operations: Operations,
        clock: Clock,
        *,
        lifetime: timedelta,
        poll: float,
        lease: float = SECONDS,
    ) -> None:
        """`lifetime`: of revocations: at least that of every token. `poll`: seconds between two polls. `lease`: seconds
        until another process takes over."""
        self._issuer, self._clock, self._poll = issuer, clock, poll
        self.close = keycloak.close
        self._lease = Lease(pool, f"poller:{issuer.name}", seconds=lease)
        polled = Polled(issuer, AdminApi(keycloak), self._lease, pool, operations, lifetime)
        self._reader, self._checker = EventReader(polled), StateChecker(polled, clock)
        self._done_at: float | None = None
        self._cause = ""
        where = f"keycloak: events of {issuer.name} are"
        self._outage = OncePerCause(log, failing=f"{where} not read", working=f"{where} read again")
        for kind in KINDS:
            POLL_EVENTS.labels(kind)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; whatever fails is tried again."""
        for sentence in self._checker.not_polled():
            log.warning("keycloak: not polled", extra={"issuer": self._issuer.name, "detail": sentence})
        await self._lease.run(self._work, stop)

    def causes(self) -> dict[str, str]:
        """Why nobody knows what happens at the issuer; empty while this process knows, or another one polls."""
        late = self._cause or "no complete poll" if self._lag() >= LATE + self._poll else ""
        cause = late or (self._checker.cause(LATE) if self._done_at is not None else "")
        return {f"keycloak:{self._issuer.name}": cause} if cause else {}

    async def _work(self, end: asyncio.Event) -> None:
        self._done_at = self._clock.monotonic()
        POLL_LAG.labels(self._issuer.name).set_function(self._lag)
        for gauge in OF_THE_HOLDER:
            gauge.labels(self._issuer.name)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._until_lost(self._checker.run(end), end))
                tasks.create_task(self._until_lost(self._follow(end), end))
        finally:
            self._done_at = None
            for gauge in OF_THE_HOLDER:
                gauge.remove(self._issuer.name)

    async def _until_lost(self, work: Coroutine[object, object, None], end: asyncio.Event) -> None:
        try:
            await work
        except Lost:
            end.set()

    def _lag(self) -> float:
        """Seconds since the last complete poll of this process; 0 while another one polls."""
        done_at = self._done_at
        return 0.0 if done_at is None else self._clock.monotonic() - done_at

    async def _follow(self, end: asyncio.Event) -> None:
        backoff = Backoff(end, self._outage.worked)
        while not end.is_set():
            try:
                if await self._reader.read():
                    self._checker.wake()
            except Unavailable as failure:
                self._cause = failure.detail if failure.dependency == "keycloak" else str(failure)
                self._outage.failed(str(failure))
                await backoff.pause()
                continue
            self._done_at = self._clock.monotonic()
            backoff.succeeded()
            await pause(end, self._poll)
