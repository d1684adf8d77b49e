"""What a test expects beside what was seen; only what is said is compared."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ext_authz.decision import Allow, Deny, Quota, Reason
from ext_authz.policytool.cases import ExpectDocument, LimitExpectation
from ext_authz.policytool.door import Asked

_NOT_THERE = "not there"


class Difference(Struct, frozen=True):
    """One thing that came out otherwise."""

    what: str
    expected: str
    seen: str


def differences(expect: ExpectDocument, asked: Asked) -> Iterator[Difference]:
    """All of them, in the order in which a test says them."""
    seen = _seen(asked)
    for name in ("decision", "reason", "code", "route", "model", "variant", "status", "grpc", "retry_after"):
        expected = getattr(expect, name)
        if expected is not None and expected != seen[name]:
            yield Difference(name, str(expected), str(seen[name]))
    quotas = {quota.name: quota for quota in asked.decision.quotas}
    for name, limit in expect.limits.items():
        yield from _of_limit(f"limits.{name}", limit, quotas.get(name))
    for name, value in expect.headers.items():
        found = asked.told.headers.get(name)
        if found != value:
            yield Difference(f"headers.{name}", _shown(value), _shown(found))


def _seen(asked: Asked) -> dict[str, object]:
    decision, told = asked.decision, asked.told
    seen: dict[str, object] = {
        "decision": "allow",
        "reason": Reason.ALLOWED,
        "code": "",
        "route": decision.route,
        "model": decision.model,
        "variant": decision.variant if isinstance(decision, Allow) else "",
        "status": told.status,
        "grpc": told.grpc,
        "retry_after": 0,
    }
    if isinstance(decision, Deny):
        refused = {"reason": decision.reason, "code": decision.code, "retry_after": decision.retry_after}
        seen |= {"decision": "deny", **refused}
    return seen


def _of_limit(what: str, expected: LimitExpectation, quota: Quota | None) -> Iterator[Difference]:
    if quota is None:
        yield Difference(what, "counted", "not counted")
        return
    for name in expected.model_fields_set:
        value, seen = getattr(expected, name), getattr(quota, name)
        if value is not None and value != seen:
            yield Difference(f"{what}.{name}", str(value), str(seen))


def _shown(value: str | None) -> str:
    return _NOT_THERE if value is None else value
