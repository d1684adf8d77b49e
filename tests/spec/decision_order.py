"""The order of a decision, as a function from what each phase finds to what must come of it.

Pure, and shares no code with the product: who reads this knows what Tollgate promises. `test_decision_order.py` holds
the product to it in every combination.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal as OneOf
from typing import NamedTuple, get_args, get_type_hints

Mode = OneOf["deny", "local", "allow"]


class Case(NamedTuple):
    """What each phase would find, if the check came so far. `broken`: a bug, or anything that nobody thought of."""

    route: OneOf["served", "public", "malformed", "unknown", "method", "protocol", "broken"] = "served"
    credential: OneOf["header", "query"] = "header"
    flood: OneOf["under", "over"] = "under"
    identity: OneOf["cached", "verified", "refused", "keys away", "broken"] = "cached"
    permission: OneOf["granted", "role", "condition", "model", "broken"] = "granted"
    revoked: OneOf["no", "yes"] = "no"
    quota: OneOf["left", "used up"] = "left"
    redis: OneOf["up", "incomplete", "ledger full", "away", "away too long", "broken"] = "up"
    """Incomplete: it may lack revocations, so Postgres is asked in its place."""
    postgres: OneOf["up", "away", "away too long"] = "up"
    if_redis: Mode = "deny"
    if_postgres: Mode = "deny"
    if_keys: OneOf["deny", "local"] = "deny"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What comes of it, for the caller, the limits and the ledger."""

    verdict: OneOf["allow", "deny", "unavailable", "broken"]
    code: str = ""
    quota: OneOf["none", "shared", "local"] = "none"
    """Taken from the counters that all replicas share, or from the worker's own."""
    ledger: int = 1
    """Events."""
    degraded: str = ""
    """The dependency without which it was decided."""
    counted: bool = False
    """Whether the flood guard counts it: a refusal of somebody who is not known."""


def values(field: str) -> tuple[str, ...]:
    """Everything that a field of a case can be."""
    return get_args(get_type_hints(Case)[field])


def expected(case: Case) -> Outcome:
    """The first phase that does not let the check go on says what comes of it."""
    for phase in PHASES:
        if (outcome := phase(case)) is not None:
            recognised = phase in (_permission, _settlement)
            return replace(outcome, degraded=_without(case, outcome)) if recognised else outcome
    raise AssertionError("the settlement always answers")


def _route(case: Case) -> Outcome | None:
    if case.route == "served":
        return None
    if case.route == "public":
        return Outcome(verdict="allow")
    return BROKEN if case.route == "broken" else _flood(case) or _deny_unauthenticated(case, ROUTE[case.route])


def _credential(case: Case) -> Outcome | None:
    return None if case.credential == "header" else _flood(case) or _deny_unauthenticated(case, "credential_in_query")


def _flood(case: Case) -> Outcome | None:
    """From an address that was refused too often. Who is known is no flood; of a flood nothing is written down."""
    over = case.flood == "over" and case.identity != "cached"
    return Outcome(verdict="deny", code="flood", ledger=0) if over else None


def _identity(case: Case) -> Outcome | None:
    if flood := _flood(case):
        return flood
    if case.identity == "broken":
        return BROKEN
    if case.identity == "keys away" and case.if_keys == "deny":
        return Outcome(verdict="unavailable", code="jwks_unavailable")
    return _deny_unauthenticated(case, "token_expired") if case.identity == "refused" else None


def _permission(case: Case) -> Outcome | None:
    if case.permission == "granted":
        return None
    return BROKEN if case.permission == "broken" else _deny(PERMISSION[case.permission])


def _settlement(case: Case) -> Outcome:
    if case.redis == "broken":
        return BROKEN
    if case.redis == "ledger full":
        return _unavailable("ledger")
    if case.redis in AWAY and not _allowed_without(case.if_redis, case.redis):
        return _unavailable("redis")
    if case.redis != "up" and case.postgres != "up" and not _allowed_without(case.if_postgres, case.postgres):
        return _unavailable("postgres")
    if case.revoked == "yes":
        return _deny("revoked")
    if case.redis in AWAY and case.if_redis == "allow":
        return Outcome(verdict="allow")
    if case.quota == "used up":
        return _deny("over_limit")
    return Outcome(verdict="allow", quota="local" if case.redis in AWAY else "shared")


def _allowed_without(mode: Mode, state: str) -> bool:
    return mode == "allow" or (mode == "local" and state != "away too long")


def _deny(code: str) -> Outcome:
    return Outcome(verdict="deny", code=code)


def _deny_unauthenticated(case: Case, code: str) -> Outcome:
    return replace(_deny(code), counted=case.identity != "cached")


def _unavailable(dependency: str) -> Outcome:
    return Outcome(verdict="unavailable", code=f"{dependency}_unavailable")


def _without(case: Case, outcome: Outcome) -> str:
    settled = outcome.verdict == "allow" or outcome.code in ("revoked", "over_limit")
    if settled and case.redis in AWAY:
        return "redis"
    if settled and case.redis == "incomplete" and case.postgres != "up":
        return "postgres"
    return "jwks" if case.identity == "keys away" else ""


AWAY = ("away", "away too long")
BROKEN = Outcome(verdict="broken", code="internal")
ROUTE = {
    "malformed": "path_not_canonical",
    "unknown": "route_unknown",
    "method": "method_not_allowed",
    "protocol": "protocol_mismatch",
}
PERMISSION = {"role": "role_missing", "condition": "condition_false", "model": "model_forbidden"}
PHASES: tuple[Callable[[Case], Outcome | None], ...] = (_route, _credential, _identity, _permission, _settlement)
