"""`tollgate explain DECISION_ID`: what was recorded of it, and what the present policy decides on the same call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click
from msgspec import Struct, to_builtins

from ext_authz.db import tables
from ext_authz.decision import Reason
from ext_authz.environment import policy_variables
from ext_authz.errors import escaped
from ext_authz.ledger.event import DecisionRecord, StoredEvent, StoredOutcome
from ext_authz.ledger.queries import find_event
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.policytool.explain import Explanation, cause, explanation, phase_lines
from ext_authz.policytool.recorded import (
    NotRecorded,
    RecordedCallers,
    ensure_recorded,
    recorded_request,
    replayable,
    revoked_by,
)
from ext_authz.policytool.simulator import Simulator, TravelClock
from ext_authz.report import utc
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.printed import change
from ext_authz.revocation.store import Change, since_revoked
from ext_authz.settings import StoreSettings, load_settings

_SEPARATOR = "\x1f"


class RecordedExplanation(Struct, frozen=True):
    """What `tollgate explain --format json` prints."""

    decision: StoredEvent
    present_policy: str
    """Hash."""
    explanation: Explanation | None
    """By the present policy; but for what refused the call then, with counters at zero and nothing revoked."""
    not_decided_again: str = ""
    """Why there is none."""
    revocation: tuple[Change, ...] = ()
    """Of a revoked call what became of the revocation that hit, up to today."""


def print_recorded(decision_id: UUID, policy: Path, form: str) -> None:
    """`tollgate explain`."""
    present = load_policy(policy, policy_variables())
    found = asyncio.run(_explained(decision_id, present, load_settings(StoreSettings), datetime.now(UTC)))
    if form == "json":
        click.echo(json.dumps(to_builtins(found), indent=2))
        return
    for line in _lines(found):
        click.echo(escaped(line))


async def _explained(decision_id: UUID, policy: Policy, settings: StoreSettings, now: datetime) -> RecordedExplanation:
    """One decision.

    Raises:
        TollgateError: it is not found.
        Unavailable: Redis or Postgres does not answer, and the other does not have it.
    """
    decision = await find_event(decision_id, settings)
    revocation = tuple(await _revocation(decision, settings))
    if (now - decision.occurred_at).total_seconds() > policy.explain_keep:
        late = "it is older than explain.keep of the policy"
        return RecordedExplanation(decision, policy.hash, None, late, revocation)
    try:
        return RecordedExplanation(
            decision, policy.hash, await _by_present_policy(decision, policy), revocation=revocation
        )
    except NotRecorded as what:
        return RecordedExplanation(decision, policy.hash, None, f"this was not recorded: {what}", revocation)


async def _revocation(decision: StoredEvent, settings: StoreSettings) -> list[Change]:
    """None of a call that was not revoked, or where it was not recorded by what."""
    record = decision.record
    if decision.reason != Reason.REVOKED or record is None or not record.revoked_by:
        return []
    kind = Kind[record.revoked_by.upper()]
    values = dict(zip(Kind, (decision.token_id, record.session, decision.subject, decision.client, ""), strict=True))
    async with tables.connected(settings.database_url, {"revocation_history": ("SELECT",)}) as connection:
        return await since_revoked(connection, kind, record.issuer_name, values[kind])


async def _by_present_policy(decision: StoredEvent, policy: Policy) -> Explanation:
    then, policy = decision.occurred_at.timestamp(), replayable(policy)
    callers = RecordedCallers(policy, policy, TravelClock(then))
    callers.event = decision
    simulator = Simulator(policy, then, callers)
    if decision.reason == Reason.REVOKED:
        simulator.counters.revoked = {revoked_by(decision)}
    elif decision.record is not None:
        simulator.counters.full = decision.record.limited_by.partition(_SEPARATOR)[0]
    check = await simulator.check(recorded_request(decision))
    ensure_recorded(decision, check.context)
    return explanation(check)


def _lines(found: RecordedExplanation) -> Iterator[str]:
    """What was decided, by which policy, and the explanation by the present one."""
    decision = found.decision
    yield f"decision {decision.decision_id} at {utc(decision.occurred_at)}"
    yield from (f"  {line}" for line in _recorded(decision))
    yield from (f"  revoked   {change(each)}" for each in found.revocation)
    same = decision.policy == found.present_policy
    present = "the present one" if same else f"the present one is {found.present_policy}"
    yield f"  policy    {decision.policy}; {present}"
    yield ""
    if found.explanation is None:
        yield f"not decided again by the present policy: {found.not_decided_again}"
        return
    yield "decided again" if same else "decided again by the present policy, which is another than then"
    yield f"({_assumed(decision)})"
    yield from phase_lines(found.explanation)


def _assumed(decision: StoredEvent) -> str:
    """What is not looked up again."""
    limit = decision.record.limited_by.partition(_SEPARATOR)[0] if decision.record else ""
    if decision.reason == Reason.REVOKED:
        return "it is revoked below as it was then, whatever became of the revocation"
    if decision.reason == Reason.OVER_LIMIT and limit:
        return f"the limit {limit} is used up below as it was then, to the last of it; other counters start at zero"
    if decision.reason == Reason.OVER_LIMIT:
        return "which limit refused was not recorded: counters start at zero below"
    return "nothing is revoked below, and counters start at zero"


def _recorded(decision: StoredEvent) -> Iterator[str]:
    allowed = decision.reason == Reason.ALLOWED
    yield f"outcome   {'allowed' if allowed else f'refused: {cause(decision.reason, decision.code)}'}"
    if allowed:
        yield from _answered(decision.outcome)
    yield f"call      {decision.method} {decision.path}"
    yield f"route     {decision.route or '-'}"
    if decision.model:
        yield f"model     {decision.model}{f' in version {decision.model_version}' if decision.model_version else ''}"
    if decision.subject:
        name = f"{decision.username} ({decision.subject})" if decision.username else decision.subject
        yield f"caller    {name} of {decision.issuer}, client {decision.client or '-'}"
    if decision.degraded:
        yield f"without   {decision.degraded}, as the failure policy allowed"
    if decision.record is not None:
        yield from _record(decision.record)


def _answered(outcome: StoredOutcome | None) -> Iterator[str]:
    if outcome is None:
        yield "answered  not known: Envoy has sent no access log entry (yet)"
        return
    yield f"answered  {outcome.answered} after {outcome.duration_ms:.0f} ms; {outcome.details}"
    yield f"upstream  {outcome.upstream or '-'} at {outcome.upstream_address or '-'}"
    yield f"bytes     {outcome.bytes_in} in, {outcome.bytes_out} out"
    if outcome.flags:
        yield f"flags     {outcome.flags}"


def _api_token(record: DecisionRecord) -> Iterator[str]:
    models = "" if record.models is None else f", for the models {', '.join(record.models) or '-'} only"
    yield f"grant     {record.session}{models}"
    if record.owner:
        held = (f"{name} {', '.join(names)}" for name, names in record.owner.items() if names)
        yield f"owner     {'; '.join(held) or 'nothing'}: the token has less"


def _record(record: DecisionRecord) -> Iterator[str]:
    yield f"from      {record.source or '-'} to {record.host or '-'}"
    if record.expires_at:
        times = (datetime.fromtimestamp(at, UTC) for at in (record.issued_at, record.expires_at))
        issued, expires = map(utc, times)
        yield f"token     issued {issued}, expires {expires}, for {', '.join(record.audiences) or '-'}"
    if record.actor:
        yield f"actor     {' for '.join(record.actor)}"
    if record.api_token:
        yield from _api_token(record)
    if record.plan:
        yield f"plan      {record.plan}"
    if record.variant:
        yield f"variant   {record.variant}"
    for key in record.limits:
        name, *values = key.split(_SEPARATOR)
        yield f"limit     {name} for {', '.join(values)}{', which refused' if key == record.limited_by else ''}"
    if record.left_out:
        yield f"left out  {', '.join(record.left_out)}: too long to be kept"
