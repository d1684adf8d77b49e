"""A door without a network: the real Check and Responder over claims that were given and counters in memory."""

from __future__ import annotations

from msgspec import Struct

from ext_authz.check import Authenticator, Check
from ext_authz.decision import Decision, DecisionIds, Request, timestamp
from ext_authz.edge.response import Responder
from ext_authz.phases.context import CheckContext
from ext_authz.policy.model import Policy
from ext_authz.policytool.answer import Told, told
from ext_authz.policytool.callers import GivenCallers
from ext_authz.policytool.counters import Counters


class TravelClock:
    """Stands still until it is told to move."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def travel(self, seconds: float) -> None:
        self._now += seconds


class Asked(Struct, frozen=True):
    """One request, what was decided, what the caller would be told, and what the check found on the way."""

    policy: Policy
    request: Request
    decision: Decision
    told: Told
    found: CheckContext

    @property
    def now(self) -> int:
        """The time that the decision went by."""
        return timestamp(self.decision.decision_id)


class Door:
    """One policy, at one time, with fresh counters."""

    def __init__(self, policy: Policy, now: float, believed: Authenticator | None = None) -> None:
        """`believed`: who recognises callers instead of `callers`."""
        self.policy = policy
        self.clock = TravelClock(now)
        self.callers = GivenCallers(policy.issuers, self.clock)
        self.counters = Counters(self.clock)
        self._check = Check(policy, believed or self.callers, self.counters, DecisionIds(self.clock))
        self._responder = Responder(policy.realm, policy.responses, policy.hash)

    async def decide(self, request: Request) -> Decision:
        """What the door decides."""
        return await self._check.decide(request)

    async def ask(self, request: Request) -> Asked:
        """The same, with all that is known about it."""
        found = CheckContext()
        decision = await self._check.decide(request, found)
        return Asked(self.policy, request, decision, told(self._responder.build(decision, request.is_grpc)), found)
