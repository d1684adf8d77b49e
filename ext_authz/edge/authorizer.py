"""The seam: CheckRequest bytes in, CheckResponse bytes out. Servers know nothing else; `check.py` knows no server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from ext_authz.check import OVERLOADED, Check
from ext_authz.decision import Decision, Deny, Reason, Request
from ext_authz.edge.measurements import Measurements
from ext_authz.edge.request import parse, seems_grpc
from ext_authz.edge.response import UNDECIDED, Responder
from ext_authz.errors import Denied
from ext_authz.observability.metrics import CHECKS, LIMIT_DRY_RUN, LIMIT_REFUSED, LIMIT_USED
from ext_authz.phases.context import CheckContext, TimedContext
from ext_authz.phases.flood_guard import CODE as FLOOD
from ext_authz.policy.model import Policy

_log = logging.getLogger(__name__)

_LOGGED_ELSEWHERE = frozenset({FLOOD, OVERLOADED})
"""Refusals that come in thousands, and that are logged now and then where they are made."""

_WITHOUT_ROUTE = frozenset({Reason.NO_ROUTE, Reason.METHOD_NOT_ALLOWED})
"""Reasons of checks for which no route was found."""

Observer = Callable[[Request, Decision], None]
"""Called with every decision on a request that could be read, when its response is built. It returns at once."""


class Authorizer:
    """One per policy in a worker process."""

    def __init__(
        self,
        check: Check,
        responder: Responder,
        *,
        log_allowed: bool = False,
        observer: Observer | None = None,
        measurements: Measurements | None = None,
    ) -> None:
        self._check = check
        self._responder = responder
        self._log_allowed = log_allowed
        self._observer = observer
        self._measurements = measurements or Measurements()

    async def check(self, message: bytes) -> bytes:
        """Decide one serialised CheckRequest. Never raises: an RPC error or an empty response could let it pass."""
        started, request, context = perf_counter(), None, CheckContext()
        decision: Decision | None = None
        try:
            request = parse(message)
            context = self._measurements.timed(request, started) or context
            decision = await self._check.decide(request, context)
            context.phase = "response"
            response = self._responder.build(decision, request.is_grpc)
        except Exception as wrong:  # noqa: BLE001 - the edge: any exception refuses the call
            decision, response = self._refused(wrong, message, request, context)
        self._observe(request, decision, context, perf_counter() - started)
        return response

    def _refused(
        self, wrong: Exception, message: bytes, request: Request | None, context: CheckContext
    ) -> tuple[Deny | None, bytes]:
        """A refusal of what was not decided; when even that fails, the one that needs nothing."""
        grpc = False
        try:
            grpc = request.is_grpc if request else seems_grpc(message)
            decision = self._check.refuse(_denied(wrong, context.decision_id), request, context)
            return decision, self._responder.build(decision, grpc)
        except Exception as again:  # noqa: BLE001 - as above
            _report(again, context.decision_id)
            return None, UNDECIDED[grpc]

    def _observe(
        self, request: Request | None, decision: Decision | None, context: CheckContext, seconds: float
    ) -> None:
        """Metrics, log and observer. When they fail, the response stays what it is."""
        try:
            self._measurements.answered(context, decision, seconds)
            if decision is not None:
                self._log_decision(decision, context)
                if self._observer is not None and request is not None:
                    self._observer(request, decision)
        except Exception as wrong:  # noqa: BLE001 - as above
            _report(wrong, decision.decision_id if decision else "")

    def _log_decision(self, decision: Decision, context: CheckContext) -> None:
        if isinstance(decision, Deny):
            if decision.code not in _LOGGED_ELSEWHERE:
                _log.info("refused", extra=_fields(decision) | _cause(decision) | _trace(context))
        elif self._log_allowed:
            _log.info("allowed", extra=_fields(decision) | _trace(context))


def count_from_zero(policy: Policy) -> None:
    """Every series of the policy's routes and limits is there before its first check."""
    for reason in Reason:
        if reason is not Reason.ALLOWED:
            CHECKS.labels("", reason)
        if reason not in _WITHOUT_ROUTE:
            for route in policy.routes:
                CHECKS.labels(route.name, reason)
    for limit in policy.limits.values():
        (LIMIT_DRY_RUN if limit.dry_run else LIMIT_REFUSED).labels(limit.name)
        LIMIT_USED.labels(limit.name)


def _denied(wrong: Exception, decision_id: str) -> Denied:
    if isinstance(wrong, Denied):
        return wrong
    _report(wrong, decision_id)
    return Denied(
        Reason.INTERNAL,
        "internal",
        "this request failed inside the authorizer; the operator finds the cause by the decision id",
    )


def _report(wrong: Exception, decision_id: str) -> None:
    with suppress(Exception):  # a log that fails is no reason to fail
        _log.error("bug in the request path", exc_info=wrong, extra={"decision_id": decision_id})


def _trace(context: CheckContext) -> dict[str, str]:
    """For the log, so that it is found from a trace, and the other way round."""
    return {"trace_id": context.parent.trace} if isinstance(context, TimedContext) and context.parent else {}


def _cause(deny: Deny) -> dict[str, str]:
    cause = {"reason": deny.reason.value, "code": deny.code}
    return cause | {"revoked_by": deny.revoked_by} if deny.revoked_by else cause


def _fields(decision: Decision) -> dict[str, str]:
    return {
        "decision_id": decision.decision_id,
        "subject": decision.principal.subject,
        "client": decision.principal.client,
        "route": decision.route,
        "model": decision.model,
    }
