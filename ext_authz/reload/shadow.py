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
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.check import Check
from ext_authz.clock import Clock
from ext_authz.decision import Allow, Decision, Reason, Request
from ext_authz.errors import ConfigError
from ext_authz.observability.metrics import SHADOW_COMPARED, SHADOW_DIFFERENCES
from ext_authz.policy.model import Policy
from ext_authz.reload.authenticator import PolicyAuthenticator
from ext_authz.reload.calm import calmly, keep
from ext_authz.reload.compiled import read
from ext_authz.reload.rollout import Holding, Order
from ext_authz.settlement.model import NO_IDS, Answer, Ask, Outcome, Settlement

KEPT = 1000
"""Differences that a worker remembers."""
MAX_WAITING = 500
"""Comparisons under way; more are skipped, and counted."""
_PUBLISH_EVERY = 1.0
_BESIDE_POLICY = frozenset({Reason.REVOKED, Reason.UNAVAILABLE, Reason.INTERNAL})
"""Not the policy's doing: nothing to compare."""
_PREFIX = "~shadow:"
"""Before the name of a limit in the key of its counter; no limit has such a name."""

logger = logging.getLogger(__name__)


class Difference(Struct, frozen=True):
    """One decision that the candidate would have taken otherwise. No credential is in it."""

    at: float
    decision_id: str
    subject: str
    client: str
    route: str
    model: str
    reason: str
    code: str
    policy: str
    candidate_route: str
    candidate_reason: str
    candidate_code: str
    candidate_policy: str


BuildCheck = Callable[[Policy, PolicyAuthenticator, Settlement], Check]


class _Candidate(Struct, frozen=True, eq=False):
    hash: str
    check: Check
    authenticator: PolicyAuthenticator
    tending: asyncio.Task[None]


class Shadow:
    """The candidate of one worker. `directory` is where its differences are written for GET /policy/shadow.

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
            SHADOW_COMPARED.labels("skipped").inc()
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
        SHADOW_COMPARED.labels(result).inc()

    def _judge(self, candidate: str, policy: str, decision: Decision, other: Decision) -> str:
        reason, code = self._verdict(decision)
        candidate_reason, candidate_code = self._verdict(other)
        if reason in _BESIDE_POLICY or candidate_reason in _BESIDE_POLICY:
            return "incomparable"
        if reason is candidate_reason:
            return "same"
        difference = Difference(
            at=self._clock.now(),
            decision_id=decision.decision_id,
            subject=(decision.principal if decision.principal.subject else other.principal).subject,
            client=(decision.principal if decision.principal.subject else other.principal).client,
            route=decision.route,
            model=decision.model or other.model,
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
        policy = await calmly(partial(read, Path(order.file)))
        if policy.hash != order.hash:
            raise ConfigError(f"the file holds the policy {policy.hash}")
        authenticator = self._beside().beside(policy.issuers)
        await authenticator.fetch_keys()
        check = await calmly(partial(self._build, policy, authenticator, self._settlement))
        await self._dismiss()
        tending = asyncio.create_task(authenticator.tend_beside(), name="shadow identity")
        self._candidate = _Candidate(policy.hash, check, authenticator, tending)
        keep()

    async def _dismiss(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            candidate.tending.cancel()
            await candidate.authenticator.stop_beside()

    async def _publish(self) -> None:
        """To a file, once a second when there is news: the supervisor answers for all workers."""
        last: Difference | None = None
        while True:
            await asyncio.sleep(_PUBLISH_EVERY)
            if self.differences and self.differences[-1] is not last:
                last = self.differences[-1]
                with suppress(OSError):  # the next news come soon
                    await asyncio.to_thread(_write, self._file, list(self.differences))


class ShadowSettlement(Settlement):
    """Takes from counters that no real check uses; nothing is revoked and nothing written down."""

    def __init__(self, settlement: Settlement, *, counts: bool) -> None:
        self._settlement = settlement
        self._counts = counts

    async def settle(self, ask: Ask) -> Answer:
        if not ask.takes or not self._counts:
            nothing = (0,) * len(ask.takes)
            return Answer(Outcome.OK, -1, nothing, nothing)
        takes = tuple([replace(take, key=_PREFIX + take.key) for take in ask.takes])
        return await self._settlement.settle(Ask(NO_IDS, 0, takes, b""))

    def record(self, event: bytes) -> None:
        """The ledger holds what was decided, not what would have been."""


def _write(file: Path, differences: Sequence[Difference]) -> None:
    partial_file = file.with_suffix(".partial")
    partial_file.write_bytes(msgspec.json.encode(differences))
    partial_file.replace(file)


def differences_in(directory: Path) -> list[Difference]:
    """Of all workers, the latest first. Blocking."""
    found: list[Difference] = []
    for file in directory.glob("shadow-*.json"):
        found += msgspec.json.decode(file.read_bytes(), type=list[Difference])
    return sorted(found, key=lambda difference: -difference.at)
