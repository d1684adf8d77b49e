"""For every policy, caller and call: what `explain` says is what the door decides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ext_authz.decision import Decision, Deny, Request
from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy
from ext_authz.policytool.account import Account, Statement
from ext_authz.policytool.cases import IdentityDocument
from ext_authz.policytool.claims import given_claims
from ext_authz.policytool.door import Door
from ext_authz.policytool.explanation import explained
from tests.unit.policy import random_policies as some
from tests.unit.policytool.command_line import written

Call = tuple[str, str, str, dict[str, str]]

often = settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
identities = some.identities.map(
    lambda known: IdentityDocument(
        user=known.principal.subject,
        client=known.principal.client,
        roles=tuple(known.roles),
        scopes=tuple(known.scopes),
        groups=tuple(known.groups),
    )
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


conditions = st.sampled_from(
    ["identity.client == 'web'", "request.headers['x-a'] == '1'", "model.name == 'cat'", "time.hour > 25"]
)
limits = st.sampled_from(["1/minute", "2/minute"])


@given(document=some.policies, when=st.none() | conditions, rate=limits, identity=identities, call=some.calls)
@often
def test_the_account_agrees_with_the_door(
    place: Path, document: dict[str, Any], when: str | None, rate: str, identity: IdentityDocument, call: Call
) -> None:
    for route in document["routes"]:
        route |= {"limits": ["user"], **({"when": when} if when else {})}
    document["limits"] = {"user": {"key": ["user"], "rate": rate}}
    live, account = asyncio.run(_asked(_compiled(place, document), identity, call))
    code = live.code if isinstance(live, Deny) else ""
    assert (account.decision, account.code) == ("deny" if code else "allow", code)
    route, _, permission, counted = account.phases
    assert [part.what for part in route.parts if part.holds] == ([f"route {live.route}"] if live.route else [])
    assert (False in [phase.holds for phase in account.phases]) is (code != "")
    if permission.holds is not None:
        assert permission.holds is all(part.holds for part in permission.parts)
    if counted.holds is not None:
        assert counted.holds is all(part.holds for part in counted.parts)
    for statement in permission.parts:
        _ensure_sound(statement)


def _compiled(place: Path, document: dict[str, Any]) -> Policy:
    found = examine(written(place, yaml.safe_dump(document)), {})
    assume(found.policy is not None)
    assert found.policy is not None
    return found.policy


async def _asked(policy: Policy, identity: IdentityDocument, call: Call) -> tuple[Decision, Account]:
    """The decision of one door on the second of two calls, and the account that another gives."""
    doors = Door(policy, 1e9), Door(policy, 1e9)
    requests = [_request(door, identity, *call) for door in doors]
    for door, request in zip(doors, requests, strict=True):
        await door.decide(request)
    return await doors[0].decide(requests[0]), explained(await doors[1].ask(requests[1]))


def _request(
    door: Door, identity: IdentityDocument, method: str, path: str, host: str, headers: dict[str, str]
) -> Request:
    claims = given_claims(identity, door.policy.issuers, door.clock.now())
    return Request(method, host, path, headers=headers, authorization=(door.callers.present(claims),))


def _ensure_sound(statement: Statement) -> None:
    """What a node says follows from what stands below it."""
    parts = [part.holds for part in statement.parts]
    what = statement.what.rpartition(": ")[2]
    if what == "any of":
        assert statement.holds is any(parts)
    elif what == "not":
        assert parts == [not statement.holds]
    elif parts:
        assert statement.holds is all(parts)
    for part in statement.parts:
        _ensure_sound(part)
