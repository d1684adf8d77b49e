"""Which dependency is away, what the policy allows then, and for how long: in metrics, in the log and in /readyz.

Nothing is decided here. `settlement/failure_mode.py` and `identity/authenticator.py` decide by the same times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import DEGRADED, DEGRADED_LEFT
from ext_authz.observability.once import OncePerCause
from ext_authz.policy.model import Failure, OnFailure, Policy

log = logging.getLogger(__name__)

Lost = Callable[[], Mapping[str, float | None]]
"""By dependency (redis, postgres, jwks:ISSUER): the monotonic time at which its grace begins; None while it answers."""

_KINDS = ("redis", "postgres", "jwks")

Term = tuple[OnFailure, int]
"""What some route does without a dependency, and its grace (LOCAL only)."""


PROBE = 5.0
"""Seconds between two questions to what works; what does not is asked sooner."""


class Probe:
    """Asks one dependency for real, now and then, and remembers the answer. Belongs to one event loop."""

    def __init__(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        """`ask` raises Unavailable."""
        self.cause = "not asked yet"
        """Why it does not work; empty when it does."""
        self._ask = ask
        self._stop = asyncio.Event()
        self._trouble = OncePerCause(log, failing=f"{name} cannot be used", working=f"{name} can be used again")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="probe")

    async def stop(self) -> None:
        self._stop.set()
        if self._task:
            await self._task

    async def _run(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            self.cause = await self._asked()
            if self.cause:
                self._trouble.failed(self.cause)
                await backoff.pause()
            else:
                self._trouble.worked()
                backoff.succeeded()
                await pause(self._stop, PROBE)

    async def _asked(self) -> str:
        """Why it does not work. Whatever goes wrong with the question is no answer."""
        try:
            await self._ask()
        except Unavailable as failure:
            return failure.detail or "no answer"
        except Exception as bug:
            log.exception("a probe failed")
            return f"{type(bug).__name__}: {bug}"
        return ""


class Outages:
    """What is away, and what the policy makes of that; `look` once a second."""

    def __init__(self, clock: Clock, policy: Policy, lost: Lost) -> None:
        self._clock = clock
        self._lost = lost
        failures = {route.failure for route in policy.routes if not route.public}
        self._terms = {kind: frozenset(_term(kind, each) for each in failures) for kind in _KINDS}
        self.without_postgres = any(mode is not OnFailure.DENY for mode, _ in self._terms["postgres"])
        """Whether some route is served without Postgres: then workers keep a list of revocations of their own."""
        self._standing: dict[str, frozenset[Term]] = {}
        """What is in force for every dependency that is away."""
        for dependency in ("redis", "postgres", *(f"jwks:{issuer.name}" for issuer in policy.issuers)):
            self._report(dependency, frozenset(), over=frozenset(), away=0)

    def look(self) -> dict[str, str]:
        """What is away, and the failure mode in force, in words."""
        found = self._lost()
        for gone in self._standing.keys() - found.keys():
            self._back(gone)
        degraded = {dependency: self._see(dependency, since) for dependency, since in found.items()}
        return {dependency: text for dependency, text in degraded.items() if text}

    def _see(self, dependency: str, since: float | None) -> str:
        if since is None:
            if dependency in self._standing:
                self._back(dependency)
            return ""
        away = self._clock.monotonic() - since
        terms = self._terms.get(dependency.partition(":")[0], frozenset())
        in_force = frozenset(term for term in terms if not _is_over(term, away))
        text = ", ".join(_words(term, away) for term in sorted(in_force)) or "deny"
        self._report(dependency, in_force, over=terms - in_force, away=away)
        if in_force != self._standing.get(dependency):
            self._announce(dependency, in_force, text)
        return text

    def _report(self, dependency: str, in_force: frozenset[Term], *, over: frozenset[Term], away: float) -> None:
        modes = {mode for mode, _ in in_force} | ({OnFailure.DENY} if over else set())
        for mode in OnFailure:
            DEGRADED.labels(dependency, mode.value).set(mode in modes)
        DEGRADED_LEFT.labels(dependency).set(max((grace - away for mode, grace in in_force if grace), default=0))

    def _announce(self, dependency: str, in_force: frozenset[Term], text: str) -> None:
        before = self._standing.get(dependency)
        self._standing[dependency] = in_force
        extra = {"dependency": dependency, "detail": text}
        if before is None:
            log.warning("degraded: a dependency does not answer", extra=extra)
        elif before > in_force:
            log.error("degraded: a grace is over", extra=extra)

    def _back(self, dependency: str) -> None:
        del self._standing[dependency]
        self._report(dependency, frozenset(), over=frozenset(), away=0)
        log.warning("degraded: the dependency answers again", extra={"dependency": dependency})


def _term(kind: str, failure: Failure) -> Term:
    modes = {"redis": failure.redis, "postgres": failure.postgres, "jwks": failure.jwks}
    return modes[kind], failure.grace if modes[kind] is OnFailure.LOCAL else 0


def _is_over(term: Term, away: float) -> bool:
    mode, grace = term
    return mode is OnFailure.LOCAL and away >= grace


def _words(term: Term, away: float) -> str:
    mode, grace = term
    return f"{mode.value}, {grace - away:.0f} s left" if mode is OnFailure.LOCAL else mode.value
