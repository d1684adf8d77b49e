"""Which dependency is away, what the policy allows then, and for how long: in metrics, in the log and in /readyz.

Nothing is decided here. `failure_mode.py` and `identity/authenticator.py` decide by the same times.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping

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

Term = tuple[OnFailure, float]
"""What some route does without a dependency, and for how many seconds."""

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
        self._in_force: dict[str, frozenset[Term]] = {}
        """By dependency that is away."""

    def look(self) -> dict[str, str]:
        """What is away, and the failure mode in force, in words."""
        away = {dependency: since for dependency, since in self._lost().items() if since is not None}
        for back in self._in_force.keys() - away.keys():
            del self._in_force[back]
            _measure(back, set(), 0)
            log.warning("degraded: the dependency answers again", extra={"dependency": back})
        return {
            dependency: self._see(dependency, self._clock.monotonic() - since) for dependency, since in away.items()
        }

    def _see(self, dependency: str, away: float) -> str:
        terms = self._terms.get(dependency.partition(":")[0], frozenset())
        in_force = frozenset((mode, seconds) for mode, seconds in terms if away < seconds)
        modes = {mode for mode, _ in in_force} | ({OnFailure.DENY} if terms - in_force else set())
        _measure(dependency, modes, max((seconds - away for _, seconds in in_force if seconds < math.inf), default=0))
        text = ", ".join(_words(*term, away) for term in sorted(in_force)) or OnFailure.DENY.value
        before, self._in_force[dependency] = self._in_force.get(dependency), in_force
        extra = {"dependency": dependency, "detail": text}
        if before is None:
            log.warning("degraded: a dependency does not answer", extra=extra)
        elif before > in_force:
            log.error("degraded: a grace is over", extra=extra)
        return text


def _measure(dependency: str, modes: Collection[OnFailure], left: float) -> None:
    for mode in OnFailure:
        DEGRADED.labels(dependency, mode.value).set(mode in modes)
    DEGRADED_LEFT.labels(dependency).set(left)


def _term(kind: str, failure: Failure) -> Term:
    mode: OnFailure = getattr(failure, kind)
    return mode, failure.grace if mode is OnFailure.LOCAL else math.inf


def _words(mode: OnFailure, seconds: float, away: float) -> str:
    return f"{mode.value}, {seconds - away:.0f} s left" if mode is OnFailure.LOCAL else mode.value
