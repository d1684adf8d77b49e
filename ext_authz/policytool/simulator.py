"""A whole check without a network: the real Check and Responder over given callers and counters in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.check import Authenticator, Check
from ext_authz.clock import Clock
from ext_authz.decision import Decision, DecisionIds, Deny, Request
from ext_authz.edge.response import Responder
from ext_authz.errors import Unavailable
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse, HeaderValueOption
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.policy.model import Algorithm, OnFailure, Policy
from ext_authz.policytool.callers import GivenCallers
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.failure_mode import FailureMode, Fallback
from ext_authz.settlement.local import MemorySettlement
from ext_authz.settlement.model import NO_IDS, SEPARATOR, Outcome, QuotaRequest, SettleRequest, SettleResult

GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""By number."""


class TravelClock:
    """Stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def travel(self, seconds: float) -> None:
        self._now += seconds


class Response(Struct, frozen=True):
    """What the caller receives, in terms of HTTP and gRPC."""

    grpc: str
    """Name of the code; OK for what is allowed."""
    status: int = 0
    """HTTP; 0 where a model answers."""
    headers: dict[str, str] = {}
    """Lower-case names. Of a refusal those of the response; of what is allowed also those that the model receives."""
    body: str = ""


class SimulatedCheck(Struct, frozen=True):
    """One request, the decision, the response, and what the check found on the way."""

    policy: Policy
    request: Request
    decision: Decision
    response: Response
    context: CheckContext

    @property
    def denied(self) -> Deny | None:
        return self.decision if isinstance(self.decision, Deny) else None

    @property
    def detail(self) -> str:
        """Of a refusal."""
        return self.denied.detail if self.denied else ""

    @property
    def has_route(self) -> bool:
        """Whether phase 1 was passed: a match alone is not enough."""
        return self.context.match is not None and not (self.denied and self.denied.code == "protocol_mismatch")

    @property
    def quota_requests(self) -> tuple[QuotaRequest, ...]:
        return self.context.settle_request.quota_requests if self.context.settle_request else ()


class Simulator:
    """One policy, at one time, with fresh counters."""

    def __init__(self, policy: Policy, now: float, authenticator: Authenticator | None = None) -> None:
        """`authenticator`: instead of `callers`."""
        self.policy = policy
        self.clock = TravelClock(now)
        self.callers = GivenCallers(policy.issuers, self.clock)
        self.counters = Counters(self.clock)
        self._check = Check(policy, authenticator or self.callers, self.counters, DecisionIds(self.clock)).silent()
        self._responder = Responder(policy.realm, policy.responses, policy.hash)

    async def decide(self, request: Request) -> Decision:
        """The decision alone."""
        return await self._check.decide(request)

    async def check(self, request: Request) -> SimulatedCheck:
        """The same with a trace."""
        context = CheckContext(trace=Trace())
        decision = await self._check.decide(request, context)
        response = _response(self._responder.build(decision, request.is_grpc))
        return SimulatedCheck(self.policy, request, decision, response, context)


class Counters(MemorySettlement):
    """Settles as a worker does, also while Redis or Postgres is away, from a state that its user sets."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, ledger_max=sys.maxsize)
        self.used: dict[str, int] = {}
        """By the name of a limit: what to take from it before the next request does. What was taken is removed."""
        self.full = ""
        """The limit, by its name, that the next request finds used up."""
        self.revoked: set[Kind] = set()
        """What of the next caller to revoke first."""
        self._clock = clock
        self._lost_at = 0.0
        self._degraded = FailureMode(clock, Fallback(self._in_postgres), self, self.whole_at)

    def switch(self, dependency: str, *, up: bool) -> None:
        """Redis or Postgres goes away, or is available again."""
        if not up:
            self._lost_at = self._clock.monotonic()
        if dependency == "redis":
            self.down = "" if up else dependency
        else:
            self.complete = up

    def whole_at(self) -> float:
        """Monotonic time at which everything was last known to be available."""
        return self._lost_at

    def saw_revoked(self, ids: tuple[str, str, str, str, str], by: Kind) -> None:
        """What is revoked stays revoked here: one memory stands for Redis, Postgres and the worker."""

    async def settle(self, request: SettleRequest) -> SettleResult:
        if self.revoked:
            self._revoke(request)
        if (self.used or self.full) and not self.down:
            await self._use(request.quota_requests)
        try:
            return await super().settle(request)
        except Unavailable as outage:
            return await self._settle_without(request, outage)

    async def _settle_without(self, request: SettleRequest, outage: Unavailable) -> SettleResult:
        """As `settlement/redis.py` does during an outage, by the same failure policy."""
        if outage.dependency == "redis":
            if request.failure.redis is OnFailure.DENY:
                raise outage
            return await self._degraded.settle(request, outage)
        kind, without = await self._degraded.revoked_by(request)
        if kind:
            return SettleResult(Outcome.REVOKED, degraded=without, revoked_by=kind)
        return replace(await super().settle(replace(request, revocation=NO_IDS)), degraded=without)

    async def _in_postgres(self, requests: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        if not self.complete:
            raise Unavailable("postgres", "down, as given")
        return [self.revokes(request.revocation, request.issued_at) for request in requests]

    def _revoke(self, request: SettleRequest) -> None:
        ids = dict(zip(Kind, request.revocation, strict=True))
        self.revocations |= {ids[kind]: request.issued_at for kind in self.revoked if ids[kind]}
        self.revoked.clear()

    async def _use(self, quota_requests: Sequence[QuotaRequest]) -> None:
        for quota_request in quota_requests:
            name = quota_request.key.partition(SEPARATOR)[0]
            whole = _whole(quota_request)
            cost = whole if name == self.full else min(self.used.pop(name, 0), whole)
            if cost:
                await super().settle(SettleRequest(NO_IDS, 0, (replace(quota_request, cost=cost),), b""))
        self.full = ""


def _whole(quota_request: QuotaRequest) -> int:
    """All that the limit gives at once."""
    return max(1, quota_request.burst) if quota_request.algorithm == Algorithm.GCRA else quota_request.limit


def _response(message: bytes) -> Response:
    """Read one serialised CheckResponse as Envoy does."""
    found = CheckResponse.FromString(message)
    grpc = GRPC_CODES[found.status.code]
    if found.WhichOneof("http_response") == "ok_response":
        ok = found.ok_response
        return Response(grpc, headers=_headers(ok.response_headers_to_add) | _headers(ok.headers))
    refusal = found.error_response if found.HasField("error_response") else found.denied_response
    answered = refusal.status.code == 200  # by Tollgate itself
    return Response("OK" if answered else grpc, refusal.status.code, _headers(refusal.headers), refusal.body)


def _headers(options: Iterable[HeaderValueOption]) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}
