"""A decision of the past as lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC

from ext_authz.decision import Reason
from ext_authz.ledger.decisions import RecordedDecision
from ext_authz.ledger.facts import Facts
from ext_authz.policytool.explain_text import phases
from ext_authz.policytool.past import Past
from ext_authz.revocation.printed import change


def lines(past: Past) -> Iterator[str]:
    """What was decided, by which policy, and the account by the present one."""
    decision = past.decision
    moment = decision.occurred_at.astimezone(UTC)
    yield f"decision {decision.decision_id} at {moment.isoformat(timespec='milliseconds')}"
    yield from (f"  {line}" for line in _recorded(decision))
    yield from (f"  revoked   {change(each)}" for each in past.revocation)
    same = decision.policy == past.present_policy
    present = "the present one" if same else f"the present one is {past.present_policy}"
    yield f"  policy    {decision.policy}; {present}"
    yield ""
    if past.account is None:
        yield f"the present policy cannot be asked again: this was not recorded: {past.not_recorded}"
        return
    yield "asked again" if same else "asked again, of the present policy, which is another than then"
    yield f"({_assumed(decision)})"
    yield from phases(past.account)


def _assumed(decision: RecordedDecision) -> str:
    """What is not looked at again."""
    limit = decision.facts.limited_by.partition("\x1f")[0] if decision.facts else ""
    if decision.reason == Reason.REVOKED:
        return "it is revoked below as it was then, whatever became of the revocation"
    if decision.reason == Reason.OVER_LIMIT and limit:
        return f"the limit {limit} is used up below as it was then, to the last of it; other counters start at zero"
    if decision.reason == Reason.OVER_LIMIT:
        return "which limit refused was not recorded: counters start at zero below"
    return "nothing is revoked below, and counters start at zero"


def _recorded(decision: RecordedDecision) -> Iterator[str]:
    outcome = "allow" if decision.reason == Reason.ALLOWED else f"deny: {decision.reason}, {decision.code}"
    yield f"outcome   {outcome}"
    yield f"call      {decision.method} {decision.path}"
    yield f"route     {decision.route or '-'}"
    if decision.model:
        yield f"model     {decision.model}{f' in version {decision.model_version}' if decision.model_version else ''}"
    if decision.subject:
        yield f"caller    {decision.subject} of {decision.issuer}, client {decision.client or '-'}"
    if decision.degraded:
        yield f"without   {decision.degraded}, as the failure policy allowed"
    if decision.facts is not None:
        yield from _facts(decision.facts)


def _facts(facts: Facts) -> Iterator[str]:
    yield f"from      {facts.source or '-'} to {facts.host or '-'}"
    if facts.plan:
        yield f"plan      {facts.plan}"
    if facts.variant:
        yield f"variant   {facts.variant}"
    for key in facts.limits:
        name, *values = key.split("\x1f")
        yield f"limit     {name} for {', '.join(values)}{', which refused' if key == facts.limited_by else ''}"
    if facts.left_out:
        yield f"left out  {', '.join(facts.left_out)}: too long to be kept"
