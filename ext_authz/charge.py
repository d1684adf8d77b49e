"""What one caller on one route costs: the question to the settlement, prepared once, and the reading of its answer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from msgspec import Raw, Struct

from ext_authz.decision import ANONYMOUS, Principal, Quota, Reason, Request
from ext_authz.decision_id import PLACEHOLDER
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.limits.limit import Limit, LimitKey
from ext_authz.policy.model import DEFAULT_PLAN, Match
from ext_authz.revocation import entry
from ext_authz.settlement.model import Answer, Ask, Outcome, Take
from ext_authz.usage import facts
from ext_authz.usage.event import NO_FACTS, UsageEvent, encode
from ext_authz.usage.facts import Facts

_PREPARED = 20_000
_PLACEHOLDER_BYTES = PLACEHOLDER.encode()
_SEEN = "\x7f"
"""Stands for the host in prepared facts."""
_SEEN_BYTES = b'"host":"\x7f"'
"""In JSON. No value can hold this: quotes in it would be escaped."""
_SEPARATOR = "\x1f"
"""Between the values of a counter's key: the verifier and the path grammar let no control character through."""


class Charge(Struct, frozen=True, eq=False):
    """All that does not change between two calls of one caller to one place. The decision id is put in per check."""

    limits: tuple[Limit, ...]
    question: Ask
    event: tuple[bytes, bytes, bytes]
    """Cut where the decision id goes, and where host and source address do; the last part is empty without facts."""

    def ask(self, decision_id: str, request: Request) -> Ask:
        """The question for this check."""
        question, (before, between, after) = self.question, self.event
        event = before + decision_id.encode() + between
        if after:
            event += _seen(request.host, request.source) + after
        return Ask(question.revocation, question.issued_at, question.takes, event, question.failure)

    def settled(self, answer: Answer) -> tuple[Quota, ...]:
        """What is left in every limit.

        Raises:
            Denied: REVOKED, or OVER_LIMIT with the quotas and how long to wait.
        """
        if answer.outcome is Outcome.REVOKED:
            raise Denied(Reason.REVOKED, "revoked", "the token is not valid any more: get a new one")
        quotas = tuple(map(_quota, self.limits, answer.remaining, answer.reset_ms))
        if answer.outcome is Outcome.LIMITED:
            limit, wait = self.limits[answer.limited_by], _seconds(answer.retry_after_ms)
            detail = f"the limit {limit.name!r} of {limit.limit} per {limit.window} s is used up: retry in {wait} s"
            raise Denied(Reason.OVER_LIMIT, "over_limit", detail, quotas=quotas, retry_after=wait)
        return quotas


class Charges:
    """Prepares charges and keeps them, bounded; keyed by the verified identity and the matched route as objects."""

    def __init__(self, policy_hash: str, *, keeps_facts: bool) -> None:
        self._policy = policy_hash
        self._keeps_facts = keeps_facts
        self._prepared: dict[tuple[Identity, Match, str, str], Charge] = {}

    def of(self, identity: Identity, match: Match, model: str, version: str, request: Request) -> Charge:
        """The charge of this caller for this route, path, model and version."""
        key = (identity, match, model, version)
        charge = self._prepared.get(key)
        if charge is None:
            if len(self._prepared) >= _PREPARED:
                self._prepared.clear()
            charge = self._prepared[key] = self._prepare(identity, match, model, version, request)
        return charge

    def event(
        self,
        decision_id: str,
        request: Request | None,
        principal: Principal = ANONYMOUS,
        *,
        known: Facts | None = None,
        route: str = "",
        model: str = "",
        version: str = "",
        reason: Reason = Reason.ALLOWED,
        code: str = "",
        degraded: str = "",
    ) -> bytes:
        """The ledger's line about one decision."""
        return encode(
            UsageEvent(
                decision_id=decision_id,
                reason=reason.value,
                code=code,
                issuer=principal.issuer,
                subject=principal.subject,
                client=principal.client,
                token_id=principal.token_id,
                route=route,
                model=model,
                model_version=version,
                method=request.method[:16] if request else "",
                path=request.path[:512] if request else "",
                policy=self._policy,
                degraded=degraded,
                facts=Raw(facts.encode(known)) if known and self._keeps_facts else NO_FACTS,
            )
        )

    def _prepare(self, identity: Identity, match: Match, model: str, version: str, request: Request) -> Charge:
        route = match.route
        values: dict[LimitKey, str] = {
            "user": f"{identity.issuer_name}:{identity.principal.subject}",
            "client": f"{identity.issuer_name}:{identity.principal.client}",
            "token": f"{identity.issuer_name}:{identity.principal.token_id}",
            "path": request.path,
            "model": model,
        }
        limits = tuple(rule.of(DEFAULT_PLAN) for rule in route.limits)
        takes = tuple(_take(limit, values) for limit in limits)
        event = self.event(
            PLACEHOLDER,
            request,
            identity.principal,
            known=Facts(_SEEN, **_about(identity, match), limits=facts.counters(take.key for take in takes)),
            route=route.name,
            model=model,
            version=version,
            degraded=identity.degraded,
        )
        return Charge(limits, Ask(entry.ids(identity), identity.issued_at, takes, b"", route.failure), _cut(event))


def known_of(request: Request, identity: Identity | None, match: Match | None) -> Facts:
    """What is known of a call that never came to the settlement."""
    return Facts(facts.cut(request.host), request.source, **_about(identity, match))


def _about(identity: Identity | None, match: Match | None) -> dict[str, Any]:
    caller = _about_caller(identity) if identity else {}
    return {**caller, "operation": match.operation or "", "grpc": match.grpc} if match else caller


_about_caller = lru_cache(maxsize=_PREPARED)(facts.about_caller)


def _cut(event: bytes) -> tuple[bytes, bytes, bytes]:
    before, _, rest = event.partition(_PLACEHOLDER_BYTES)
    between, _, after = rest.partition(_SEEN_BYTES)
    return before, between, after


@lru_cache(maxsize=4096)
def _seen(host: str, source: str) -> bytes:
    return b'"host":%s,"source":%s' % (facts.encode(facts.cut(host)), facts.encode(source))


def _take(limit: Limit, values: dict[LimitKey, str]) -> Take:
    key = _SEPARATOR.join((limit.name, *(values[part] for part in limit.key)))
    return Take(key, limit.algorithm, limit.limit, limit.window * 1000, limit.burst)


def _quota(limit: Limit, remaining: int, reset_ms: int) -> Quota:
    return Quota(limit.name, limit.limit, limit.window, remaining, _seconds(reset_ms))


def _seconds(milliseconds: int) -> int:
    return -(-milliseconds // 1000)
