"""What a check asked and found, filled in by every phase on its way.

The ledger's event, refusals and explanations of decisions read it: there is no second implementation of them.
"""

from __future__ import annotations

from time import perf_counter

from msgspec import Struct, field

from ext_authz.decision import ANONYMOUS, Principal, Quota
from ext_authz.identity.identity import Identity
from ext_authz.observability.tracing import Parent
from ext_authz.policy.model import Algorithm, Limit, Match
from ext_authz.settlement.model import SettleRequest, SettleResult


class Trace(Struct, omit_defaults=True):
    """Something that was evaluated, its answer, and what the answer rests on. Only collected to explain a check."""

    what: str = ""
    holds: bool | None = None
    """None: a fact, or not evaluated."""
    note: str = ""
    parts: list[Trace] = field(default_factory=list)

    def add(self, what: str = "", holds: bool | None = None, note: str = "") -> Trace:  # noqa: FBT001 - as the field
        """One more part."""
        part = Trace(what, holds, note)
        self.parts.append(part)
        return part


class CheckContext(Struct):
    """What is known so far; empty where the check did not get."""

    phase: str = "read"
    """Set as each begins. That is an assignment and no call, as it is paid by every check; see `TimedContext`."""
    decision_id: str = ""
    at_ms: int = 0
    """Milliseconds since the epoch: the time that the decision goes by."""
    match: Match | None = None
    route: str = ""
    identity: Identity | None = None
    refused: Identity | None = None
    """Of a token whose signature is valid and that was refused, as far as it could be read; `identity` is None then."""
    principal: Principal = ANONYMOUS
    model: str = ""
    version: str = ""
    variant: str = ""
    served: str = ""
    """The version that the variant serves, where the policy says so."""
    plan: str = ""
    """Empty where the policy has no plans."""
    limits: tuple[Limit, ...] = ()
    """Those of the route, as they apply to this caller; in the order of `settle_request.quota_requests`."""
    settle_request: SettleRequest | None = None
    settle_result: SettleResult | None = None
    quotas: tuple[Quota, ...] = ()
    """What is left in each limit, as the caller may know it."""
    degraded: str = ""
    """The dependency without which this was decided."""
    answer: object = None
    """What Tollgate itself answers, if the request is permitted; None: a model answers."""
    trace: Trace | None = None
    """Set by a caller that wants each evaluation of a permission, condition or experiment as a part of it."""

    @property
    def now(self) -> int:
        """`at_ms` in whole seconds."""
        return self.at_ms // 1000


class TimedContext(CheckContext):
    """Of a check whose phases are measured."""

    parent: Parent | None = None
    """The caller's span; None: the check is not traced."""
    marks: list[tuple[str, float]] = field(default_factory=list)
    """Each phase, and when it began, by `perf_counter`."""

    @property  # type: ignore[misc]  # an attribute there, so that most checks pay for no call
    def phase(self) -> str:
        """The present one."""
        return self.marks[-1][0]

    @phase.setter
    def phase(self, name: str) -> None:
        self.marks.append((name, perf_counter()))


def most(limit: Limit) -> int:
    """What a limit takes at once while nothing is used."""
    return max(1, limit.burst) if limit.algorithm is Algorithm.GCRA else limit.limit
