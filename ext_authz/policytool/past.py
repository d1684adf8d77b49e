"""A decision of the past: what was recorded of it, and what the present policy makes of the same call."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct
from redis.exceptions import RedisError

from ext_authz.db import tables
from ext_authz.db.redis import connected
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.policy.model import Policy
from ext_authz.policytool.account import Account
from ext_authz.policytool.door import Door, TravelClock
from ext_authz.policytool.explanation import explained
from ext_authz.policytool.recorded_callers import RecordedCallers
from ext_authz.policytool.replay import ensure_known, replayable, request_of
from ext_authz.policytool.unrecorded import NotRecorded
from ext_authz.settings import StoreSettings
from ext_authz.usage.decisions import READS, RecordedDecision, find_decision, find_waiting

_REDIS_SECONDS = 5.0


class Past(Struct, frozen=True):
    """What `tollgate explain --format json` prints."""

    decision: RecordedDecision
    present_policy: str
    """Hash."""
    account: Account | None
    """By the present policy, with counters at zero and nothing revoked."""
    not_recorded: str
    """Why there is none."""


async def past(decision_id: UUID, policy: Policy, settings: StoreSettings, now: datetime) -> Past:
    """One decision, and the account of it.

    Raises:
        TollgateError: nobody knows it, or it may not be explained any more.
        Unavailable: Redis or Postgres does not answer, and the other does not have it.
    """
    decision = await _found(decision_id, settings)
    age = (now - decision.occurred_at).total_seconds()
    if age > policy.explain_keep:
        raise TollgateError(
            f"the decision {decision_id} is no longer kept: it is older than explain.keep of the policy"
        )
    if decision.facts is None:
        raise TollgateError(f"what the decision {decision_id} went by is not kept, or not any more")
    try:
        account = await _accounted(decision, policy)
    except NotRecorded as missing:
        return Past(decision, policy.hash, None, str(missing))
    return Past(decision, policy.hash, account, "")


async def _found(decision_id: UUID, settings: StoreSettings) -> RecordedDecision:
    """In the stream first: what the usage worker moves meanwhile is in Postgres then."""
    outage: Unavailable | None = None
    try:
        waiting = await _waiting(decision_id, settings)
    except RedisError as failure:
        waiting, outage = None, Unavailable("redis", str(failure))
    found = waiting or await _moved(decision_id, settings)
    if found is None and outage is not None:
        raise outage
    if found is None:
        raise TollgateError(f"there is no decision {decision_id}")
    return found


async def _waiting(decision_id: UUID, settings: StoreSettings) -> RecordedDecision | None:
    url, shards = settings.redis_url.get_secret_value(), settings.redis_shards
    async with connected(url, shards=shards, seconds=_REDIS_SECONDS) as clients:
        return await find_waiting(clients, decision_id)


async def _moved(decision_id: UUID, settings: StoreSettings) -> RecordedDecision | None:
    async with tables.connected(settings.database_url, READS) as connection:
        return await find_decision(connection, decision_id)


async def _accounted(decision: RecordedDecision, policy: Policy) -> Account:
    then, policy = decision.occurred_at.timestamp(), replayable(policy)
    callers = RecordedCallers(policy, policy, TravelClock(then))
    callers.event = decision
    asked = await Door(policy, then, believed=callers).ask(request_of(decision))
    ensure_known(decision, asked.found)
    return explained(asked)
