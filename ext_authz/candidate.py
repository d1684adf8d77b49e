"""A candidate policy beside the one in force: every answer is decided a second time, after it left, and compared.

The candidate goes the same way through `check.py`, with a settlement that counts in counters of its own and leaves
revocations and the ledger alone. Nothing here can change an answer, and no answer waits for it: a comparison is a task
that starts when the answer is built, there is an end to how many wait, and whatever goes wrong in one ends in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache

import msgspec
from msgspec.structs import replace
from prometheus_client import Counter

from ext_authz.check import Check
from ext_authz.clock import Clock
from ext_authz.decision import Decision, Deny, Reason, Request
from ext_authz.errors import ConfigError
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.observability.metrics import CANDIDATE_COMPARED, CANDIDATE_DIFFERENCES
from ext_authz.policy.model import Policy
from ext_authz.server.messages import Difference, sentences
from ext_authz.settlement.model import NO_IDS, Outcome, Settlement, SettleRequest, SettleResult

MAX_WAITING = 1000
"""Comparisons under way; more are skipped, and counted."""

_UNSENT = 1000
"""Differences that wait to be sent to the supervisor."""
_PREFIX = "~candidate:"
"""Before the name of a limit in the key of its counter; no limit has such a name."""
_TOGETHER = 0.02
"""Seconds that the candidate's limits wait for each other."""
_BESIDE_POLICY = frozenset({Reason.REVOKED, Reason.UNAVAILABLE, Reason.INTERNAL})
"""Not the policy's doing: nothing to compare."""

logger = logging.getLogger(__name__)


class Candidate:
    """One per worker process; without a valid policy it compares nothing."""

    def __init__(
        self,
        load: Callable[[], Policy],
        build: Callable[[Policy], tuple[Check, TokenAuthenticator]],
        *,
        policy: str,
        sample: float,
        random: Callable[[], float],
        clock: Clock,
    ) -> None:
        """`policy`: the hash of the one in force. With a `sample` below 1 some requests are not seen, so that counters
        would be wrong: then limits are not compared, and one over its limit counts as allowed."""
        self._policy = policy
        self._counts = sample >= 1
        self._sample = sample
        self._random = random
        self._clock = clock
        self._check: Check | None = None
        self._authenticator: TokenAuthenticator | None = None
        self._comparing: set[asyncio.Task[None]] = set()
        self._unsent: deque[Difference] = deque(maxlen=_UNSENT)
        self.hash = ""
        self.faults: tuple[str, ...] = ()
        try:
            candidate = load()
            check, self._authenticator = build(candidate)
            self._check = check.silent()
            self.hash = candidate.hash
        except ConfigError as wrong:
            self.faults = sentences(wrong)

    async def start(self) -> None:
        """Its keys are fetched while the worker serves already."""
        if self._authenticator:
            self._starting = asyncio.create_task(self._authenticator.start(), name="candidate")

    async def stop(self) -> None:
        for task in self._comparing:
            task.cancel()
        await asyncio.gather(*self._comparing, return_exceptions=True)
        if self._authenticator:
            await self._starting
            await self._authenticator.stop()

    def observe(self, request: Request, decision: Decision) -> None:
        """Called with every answer; returns at once."""
        if self._check is None or (self._sample < 1 and self._random() >= self._sample):
            return
        if len(self._comparing) >= MAX_WAITING:
            _compared("skipped").inc()
            return
        task = asyncio.create_task(self._compare(self._check, request, decision))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    def differences(self) -> Sequence[Difference]:
        """Those since the last call."""
        latest = tuple(self._unsent)
        self._unsent.clear()
        return latest

    async def _compare(self, check: Check, request: Request, decision: Decision) -> None:
        try:
            result = self._judge(decision, await check.decide(request))
        except Exception:
            logger.exception("candidate comparison failed")
            result = "failed"
        _compared(result).inc()

    def _judge(self, decision: Decision, other: Decision) -> str:
        reason, code = self._verdict(decision)
        candidate_reason, candidate_code = self._verdict(other)
        if reason in _BESIDE_POLICY or candidate_reason in _BESIDE_POLICY:
            return "incomparable"
        if reason is candidate_reason:
            return "same"
        principal = decision.principal if decision.principal.subject else other.principal
        difference = Difference(
            at=self._clock.now(),
            decision_id=decision.decision_id,
            subject=_text(principal.subject),
            client=_text(principal.client),
            route=decision.route,
            model=_text(decision.model or other.model),
            reason=reason,
            code=code,
            policy=self._policy,
            candidate_route=other.route,
            candidate_reason=candidate_reason,
            candidate_code=candidate_code,
            candidate_policy=self.hash,
        )
        self._unsent.append(difference)
        CANDIDATE_DIFFERENCES.labels(difference.route, difference.reason, difference.candidate_reason).inc()
        # The log's own bound holds: so many lines of one event a second.
        logger.info("the candidate policy differs", extra=msgspec.structs.asdict(difference))
        return "different"

    def _verdict(self, decision: Decision) -> tuple[Reason, str]:
        if not isinstance(decision, Deny) or (decision.reason is Reason.OVER_LIMIT and not self._counts):
            return Reason.ALLOWED, ""
        return decision.reason, decision.code


class CandidateSettlement(Settlement):
    """Phase 4 for a candidate: the same limits in counters that no real check uses; nothing is revoked, no ledger.

    Waits shortly, so that many go to Redis at once: one by one they would keep real checks waiting for their turn.
    """

    def __init__(self, settlement: Settlement, *, counts: bool) -> None:
        self._settlement = settlement
        self._counts = counts
        self._departure: asyncio.Task[None] | None = None

    async def settle(self, request: SettleRequest) -> SettleResult:
        if not request.quota_requests or not self._counts:
            nothing = (0,) * len(request.quota_requests)
            return SettleResult(Outcome.OK, -1, nothing, nothing)
        quota_requests = tuple([replace(each, key=_PREFIX + each.key) for each in request.quota_requests])
        if self._departure is None or self._departure.done():
            self._departure = asyncio.create_task(asyncio.sleep(_TOGETHER))
        await asyncio.shield(self._departure)  # those that wait go on in the order in which they came
        return await self._settlement.settle(SettleRequest(NO_IDS, 0, quota_requests, b""))

    def record(self, event: bytes) -> None:
        """The ledger holds what was decided, not what would have been."""


@cache
def _compared(result: str) -> Counter:
    # Looking a label up costs several times the increment.
    return CANDIDATE_COMPARED.labels(result)


def _text(claim: str) -> str:
    """JSON takes no lone surrogates; a claim may hold them."""
    return claim.encode(errors="backslashreplace").decode()
