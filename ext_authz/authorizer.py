"""The seam: CheckRequest bytes in, CheckResponse bytes out. Servers know nothing else; `check.py` knows no server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from time import perf_counter

from prometheus_client import Counter

from ext_authz.check import Check
from ext_authz.decision import Allow, Decision, Deny, Reason, Request
from ext_authz.errors import Denied
from ext_authz.limits.flood import CODE as FLOOD
from ext_authz.observability.metrics import CHECK_SECONDS, CHECKS, REVOKED
from ext_authz.request import parse
from ext_authz.response import Responder

_log = logging.getLogger(__name__)

Observer = Callable[[Request, Decision], None]
"""Told of every answer to a request that could be read, when it is built. It returns at once and never raises."""


class Authorizer:
    """One per policy in a worker process."""

    def __init__(
        self, check: Check, responder: Responder, *, log_allowed: bool = False, observer: Observer | None = None
    ) -> None:
        self._check = check
        self._responder = responder
        self._log_allowed = log_allowed
        self._observer = observer

    async def check(self, message: bytes) -> bytes:
        """Decide one serialised CheckRequest. Never raises: a bug is a refusal, and an RPC error could fail open."""
        started, request = perf_counter(), None
        try:
            request = parse(message)
            decision = await self._check.decide(request)
        except Denied as unread:
            decision = self._check.refuse_unread(unread)
        except Exception:  # noqa: BLE001 - the edge: whatever went wrong, nobody is let in
            _log.exception("bug in the request path")
            bug = Denied(Reason.INTERNAL, "internal", "the door failed on this request; the operator can find out why")
            decision = self._check.refuse_unread(bug)
        self._observe(decision, perf_counter() - started)
        answer = self._responder.build(decision, request is not None and request.is_grpc)
        if self._observer is not None and request is not None:
            self._observer(request, decision)
        return answer

    def _observe(self, decision: Decision, seconds: float) -> None:
        CHECK_SECONDS.observe(seconds)
        if isinstance(decision, Deny):
            _counter(decision.route, decision.reason).inc()
            if decision.revoked_by:
                REVOKED.labels(decision.revoked_by).inc()
            if decision.code != FLOOD:  # the guard logs those itself, ever more rarely
                _log.info("refused", extra=_fields(decision) | _refusal(decision))
            return
        _counter(decision.route, Reason.ALLOWED).inc()
        if self._log_allowed:
            _log.info("allowed", extra=_fields(decision))


@cache
def _counter(route: str, reason: Reason) -> Counter:
    """`labels` costs more than the increment; routes and reasons are few."""
    return CHECKS.labels(route, reason)


def _refusal(deny: Deny) -> dict[str, str]:
    said = {"reason": deny.reason.value, "code": deny.code}
    return said | {"revoked_by": deny.revoked_by} if deny.revoked_by else said


def _fields(decision: Allow | Deny) -> dict[str, str]:
    return {
        "decision_id": decision.decision_id,
        "subject": decision.principal.subject,
        "client": decision.principal.client,
        "route": decision.route,
        "model": decision.model,
    }
