"""A candidate policy beside the one in force: every answer is decided a second time, after it left, and compared.

The candidate goes the same way through `check.py`, with a settlement that counts in counters of its own and leaves
revocations and the ledger alone. Nothing here can change an answer, and no answer waits for it: a comparison is a task
that starts when the answer is built, there is an end to how many wait, and whatever goes wrong in one ends in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import msgspec
from msgspec import Struct
from prometheus_client import Counter

from ext_authz.check import Check
from ext_authz.clock import Clock
from ext_authz.decision import Allow, Decision, Reason, Request
from ext_authz.errors import ConfigError
from ext_authz.observability.metrics import SHADOW_COMPARED, SHADOW_DIFFERENCES
from ext_authz.policy.model import Policy
from ext_authz.reload.authenticator import PolicyAuthenticator
from ext_authz.reload.calm import Calm
from ext_authz.reload.compiled import read
from ext_authz.reload.differences import Difference, write
from ext_authz.reload.rollout import Holding, Order
from ext_authz.reload.shadow_settlement import ShadowSettlement
from ext_authz.settlement.model import Settlement

KEPT = 1000
"""Differences that a worker remembers."""
MAX_WAITING = 1000
"""Comparisons under way; more are skipped, and counted."""
_PUBLISH_EVERY = 1.0
_BESIDE_POLICY = frozenset({Reason.REVOKED, Reason.UNAVAILABLE, Reason.INTERNAL})
"""Not the policy's doing: nothing to compare."""

BuildCheck = Callable[[Policy, PolicyAuthenticator, Settlement], Check]

logger = logging.getLogger(__name__)


class _Candidate(Struct, frozen=True, eq=False):
    hash: str
    check: Check
    authenticator: PolicyAuthenticator
    tending: asyncio.Task[None]


class Shadow:
    """The candidate of one worker. `file` is where its differences are written for GET /policy/shadow.

    With a `sample` below 1 some requests are not seen, so that counters would be wrong: then limits are not compared,
    and a request over its limit counts as one that the rest of the policy let through.
    """

    def __init__(
        self,
        build: BuildCheck,
        beside: Callable[[], PolicyAuthenticator],
        settlement: Settlement,
        *,
        sample: float,
        random: Callable[[], float],
        clock: Clock,
        calm: Calm,
        file: Path,
    ) -> None:
        self.holding = Holding()
        self.differences: deque[Difference] = deque(maxlen=KEPT)
        self._build = build
        self._beside = beside
        self._settlement = ShadowSettlement(settlement, counts=sample >= 1)
        self._counts = sample >= 1
        self._sample = sample
        self._random = random
        self._clock = clock
        self._calm = calm
        self._file = file
        self._candidate: _Candidate | None = None
        self._comparing: set[asyncio.Task[None]] = set()
        self._publishing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._publishing = asyncio.create_task(self._publish(), name="shadow")

    async def stop(self) -> None:
        tasks = [*self._comparing, *filter(None, [self._publishing])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._dismiss()

    async def obey(self, order: Order) -> None:
        """Let another candidate look on, or keep this one and say why in `holding`. Never raises."""
        why = ""
        try:
            await self._replace(order)
        except Exception as wrong:
            logger.exception("shadow policy not taken", extra={"policy": order.hash})
            why = f"{type(wrong).__name__}: {wrong}"
        self.holding = Holding(self._candidate.hash if self._candidate else "", order.number, why)

    def observe(self, policy: str, request: Request, decision: Decision) -> None:
        """Called with every answer by the policy of this hash; returns at once."""
        candidate = self._candidate
        if candidate is None or (self._sample < 1 and self._random() >= self._sample):
            return
        if len(self._comparing) >= MAX_WAITING:
            _compared("skipped").inc()
            return
        task = asyncio.create_task(self._compare(candidate, policy, request, decision))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    async def _compare(self, candidate: _Candidate, policy: str, request: Request, decision: Decision) -> None:
        try:
            result = self._judge(candidate.hash, policy, decision, await candidate.check.decide(request))
        except Exception:
            logger.exception("shadow comparison failed")
            result = "failed"
        _compared(result).inc()

    def _judge(self, candidate: str, policy: str, decision: Decision, other: Decision) -> str:
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
            policy=policy,
            candidate_route=other.route,
            candidate_reason=candidate_reason,
            candidate_code=candidate_code,
            candidate_policy=candidate,
        )
        self._tell(difference)
        return "different"

    def _verdict(self, decision: Decision) -> tuple[Reason, str]:
        if isinstance(decision, Allow) or (decision.reason is Reason.OVER_LIMIT and not self._counts):
            return Reason.ALLOWED, ""
        return decision.reason, decision.code

    def _tell(self, difference: Difference) -> None:
        self.differences.append(difference)
        SHADOW_DIFFERENCES.labels(difference.route, difference.reason, difference.candidate_reason).inc()
        # The log's own bound holds: so many lines of one event a second.
        logger.info("the shadow policy differs", extra=msgspec.structs.asdict(difference))

    async def _replace(self, order: Order) -> None:
        policy = await self._calm.run(partial(read, Path(order.file)))
        if policy.hash != order.hash:
            raise ConfigError(f"the file holds the policy {policy.hash}")
        authenticator = self._beside().beside(policy.issuers)
        await authenticator.fetch_keys()
        check = await self._calm.run(partial(self._build, policy, authenticator, self._settlement))
        await self._dismiss()
        tending = asyncio.create_task(authenticator.tend_beside(), name="shadow identity")
        self._candidate = _Candidate(policy.hash, check, authenticator, tending)

    async def _dismiss(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            candidate.tending.cancel()
            await candidate.authenticator.stop_beside()
            self._calm.free(candidate.check)

    async def _publish(self) -> None:
        """To a file, once a second when there is news: the supervisor answers for all workers."""
        last: Difference | None = None
        while True:
            await asyncio.sleep(_PUBLISH_EVERY)
            if self.differences and self.differences[-1] is not last:
                last = self.differences[-1]
                with suppress(OSError):  # the next news come soon
                    await asyncio.to_thread(write, self._file, list(self.differences))


@cache
def _compared(result: str) -> Counter:
    # Looking a label up costs several times the increment.
    return SHADOW_COMPARED.labels(result)


def _text(claim: str) -> str:
    """JSON takes no lone surrogates; a claim may hold them."""
    return claim.encode(errors="backslashreplace").decode()
