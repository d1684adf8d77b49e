"""A decision of the past: what was recorded of it, and what the present policy makes of the same call."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from ext_authz.db import tables
from ext_authz.decision import Reason
from ext_authz.errors import TollgateError
from ext_authz.ledger.decisions import RecordedDecision, recorded_decision
from ext_authz.ledger.facts import Facts
from ext_authz.policy.model import Policy
from ext_authz.policytool.account import Account
from ext_authz.policytool.door import Door, TravelClock
from ext_authz.policytool.explanation import explained
from ext_authz.policytool.recorded_callers import RecordedCallers
from ext_authz.policytool.replay import ensure_known, replayable, request_of, revoked_by
from ext_authz.policytool.unrecorded import NotRecorded
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.store import Change, since_revoked
from ext_authz.settings import StoreSettings


class Past(Struct, frozen=True):
    """What `tollgate explain --format json` prints."""

    decision: RecordedDecision
    present_policy: str
    """Hash."""
    account: Account | None
    """By the present policy; but for what refused the call then, with counters at zero and nothing revoked."""
    not_recorded: str
    """Why there is none."""
    revocation: tuple[Change, ...] = ()
    """Of a revoked call what became of the revocation that hit, up to today."""


async def past(decision_id: UUID, policy: Policy, settings: StoreSettings, now: datetime) -> Past:
    """One decision, and the account of it.

    Raises:
        TollgateError: nobody knows it, or it may not be explained any more.
        Unavailable: Redis or Postgres does not answer, and the other does not have it.
    """
    decision = await recorded_decision(decision_id, settings)
    age = (now - decision.occurred_at).total_seconds()
    if age > policy.explain_keep:
        raise TollgateError(
            f"the decision {decision_id} is no longer kept: it is older than explain.keep of the policy"
        )
    if decision.facts is None:
        raise TollgateError(f"what the decision {decision_id} went by is not kept, or not any more")
    revocation = tuple(await _revocation(decision, decision.facts, settings))
    try:
        account = await _accounted(decision, policy)
    except NotRecorded as missing:
        return Past(decision, policy.hash, None, str(missing), revocation)
    return Past(decision, policy.hash, account, "", revocation)


async def _revocation(decision: RecordedDecision, facts: Facts, settings: StoreSettings) -> list[Change]:
    """None of a call that was not revoked, or where nobody recorded by what."""
    if decision.reason != Reason.REVOKED or not facts.revoked_by:
        return []
    kind = Kind[facts.revoked_by.upper()]
    values = dict(zip(Kind, (decision.token_id, facts.session, decision.subject, decision.client, ""), strict=True))
    async with tables.connected(settings.database_url, {"revocation_history": ("SELECT",)}) as connection:
        return await since_revoked(connection, kind, facts.issuer_name, values[kind])


async def _accounted(decision: RecordedDecision, policy: Policy) -> Account:
    then, policy = decision.occurred_at.timestamp(), replayable(policy)
    callers = RecordedCallers(policy, policy, TravelClock(then))
    callers.event = decision
    door = Door(policy, then, believed=callers)
    if decision.reason == Reason.REVOKED:
        door.counters.revoked = {revoked_by(decision)}
    elif decision.facts is not None:
        door.counters.full = decision.facts.limited_by.partition("\x1f")[0]
    asked = await door.ask(request_of(decision))
    ensure_known(decision, asked.found)
    return explained(asked)
