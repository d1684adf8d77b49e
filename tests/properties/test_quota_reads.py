"""For every policy, caller and call: a read changes nothing, and shows what the next check finds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ext_authz.check import Check
from ext_authz.clock import SystemClock
from ext_authz.decision import Answer, Decision, DecisionIds, Deny, Reason, Request
from ext_authz.phases import quota_reads
from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy
from ext_authz.policytool.callers import GivenCallers, IdentityDocument, given_claims
from ext_authz.settlement.local import MemorySettlement
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.policy import random_policies as some
from tests.unit.policy.writing import write

Call = tuple[str, str, str, dict[str, str]]
Limits = list[dict[str, Any]]

_keys = st.sets(
    st.sampled_from(["user", "client", "token", "path", "model", "route", "ip"]), min_size=1, max_size=3
).map(sorted)
_small = st.integers(1, 6)
_common = {"key": _keys, "cost": st.integers(1, 3), "dry_run": st.booleans()}


def _limit(algorithm: str, period: str, **more: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Any]]:
    """Long periods: real time passes in Redis between a read and a check."""
    rates = _small.map(lambda number: f"{number}/{period}")
    return st.fixed_dictionaries({**_common, "rate": rates, "algorithm": st.just(algorithm), **more})


limits = st.one_of(
    _limit("fixed_window", "day"),
    _limit("sliding_window", "day"),
    _limit("calendar", "year"),
    _limit("gcra", "day", burst=_small),
)
identities = some.identities.map(
    lambda known: IdentityDocument(
        user=known.principal.subject,
        client=known.principal.client,
        roles=tuple(known.roles),
        scopes=tuple(known.scopes),
        groups=tuple(known.groups),
    )
)


def _of_calls(events: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """A read that is refused is recorded, as every refusal is; one that is answered is not."""
    return [event for event in events if b'"/.tollgate/quota"' not in event[0] or b'"reason":"allowed"' in event[0]]


class MemoryWorld:
    def __init__(self) -> None:
        self.settlement = MemorySettlement(SystemClock())

    async def state(self) -> object:
        counted, events = self.settlement._limits, _of_calls(self.settlement.ledger)
        sliding = {key: (kept.total, list(kept._slices)) for key, kept in counted._sliding.items()}
        return dict(counted._windows), dict(counted._arrivals), sliding, events


class SharedWorld(RedisWorld):
    async def state(self) -> object:
        keys = [key async for key in self.client.scan_iter() if not key.endswith((b":alive", b":events"))]
        return {key: await self.client.get(key) for key in keys}, _of_calls(await self.ledger())


@asynccontextmanager
async def _world(redis_url: str) -> AsyncIterator[MemoryWorld | SharedWorld]:
    if not redis_url:
        yield MemoryWorld()
        return
    async with SharedWorld(redis_url) as world:
        await world.client.flushall()
        await world.set_complete(complete=True)
        yield world


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(autouse=True)
def _as_often_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_reads, "AT_ONCE", 10_000)


@given(
    document=some.policies,
    limits=st.lists(limits, min_size=1, max_size=4),
    sequence=st.lists(st.tuples(identities, some.calls), min_size=1, max_size=5),
)
@pytest.mark.parametrize("counters", ["memory", "redis"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture])
def test_a_read_changes_nothing_and_shows_what_the_next_check_finds(
    place: Path,
    redis_url: str,
    counters: str,
    document: dict[str, Any],
    limits: Limits,
    sequence: list[tuple[IdentityDocument, Call]],
) -> None:
    document["limits"] = {f"l{number}": limit for number, limit in enumerate(limits)}
    for route in document["routes"]:
        route["limits"] = [*document["limits"]]
    found = examine(write(place, yaml.safe_dump(document)), {})
    assume(found.policy is not None)
    assert found.policy is not None
    asyncio.run(_played(found.policy, sequence * 2, redis_url if counters == "redis" else ""))


async def _played(policy: Policy, sequence: list[tuple[IdentityDocument, Call]], redis_url: str) -> None:
    async with _world(redis_url) as world:
        callers = GivenCallers(policy.issuers, SystemClock())
        check = Check(policy, callers, world.settlement, DecisionIds(SystemClock()))
        for identity, (method, path, host, headers) in sequence:
            token = callers.present(given_claims(identity, policy.issuers, SystemClock().now()))
            call = Request(method, host, path, authorization=(token,), headers=headers, source="10.0.0.1")
            before = await world.state()
            listed, described = await _read(check, call, {}), await _read(check, call, {"path": path, "method": method})
            assert await world.state() == before
            _ensure_shown(await check.decide(call), described)
            assert isinstance(listed, list)
            if isinstance(described, list):
                _ensure_same(listed, described)


async def _read(check: Check, call: Request, query: dict[str, str]) -> Limits | Decision:
    path, method = "/.tollgate/quota", "GET"
    decision = await check.decide(msgspec.structs.replace(call, method=method, path=path, query=urlencode(query)))
    if isinstance(decision, Answer):
        return json.loads(msgspec.json.encode(decision.document))["limits"]  # type: ignore[no-any-return]
    return decision


def _ensure_shown(decision: Decision, described: Limits | Decision) -> None:
    """What the check finds was shown before; what it refuses before it counts was refused in the same words."""
    if isinstance(decision, Deny) and decision.reason is not Reason.OVER_LIMIT:
        assert isinstance(described, Deny)
        assert (described.reason, described.code, described.detail) == (decision.reason, decision.code, decision.detail)
        return
    assert isinstance(described, list)
    taken = not isinstance(decision, Deny)
    shown = {limit["name"]: limit["remaining"] - limit["cost"] * taken for limit in described}
    assert shown == {quota.name: quota.remaining for quota in decision.quotas}


def _ensure_same(listed: Limits, described: Limits) -> None:
    """A counter reads the same in both."""
    by_counter = {(limit["name"], str(limit["by"])): limit for limit in listed if "remaining" in limit}
    for limit in described:
        same = by_counter.get((limit["name"], str(limit["by"])), limit)
        assert same["remaining"] == limit["remaining"]
