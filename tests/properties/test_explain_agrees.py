"""For every policy, caller and call: what `explain` prints is what the check decides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ext_authz.decision import Decision, Deny, Request
from ext_authz.phases.context import Trace
from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.explain import Explanation, explanation
from ext_authz.policytool.simulator import Simulator
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
def test_the_explanation_agrees_with_the_check(
    place: Path, document: dict[str, Any], when: str | None, rate: str, identity: IdentityDocument, call: Call
) -> None:
    for route in document["routes"]:
        route |= {"limits": ["user"], **({"when": when} if when else {})}
    document["limits"] = {"user": {"key": ["user"], "rate": rate}}
    live, found = asyncio.run(_checked(_compiled(place, document), identity, call))
    code = live.code if isinstance(live, Deny) else ""
    assert (found.decision, found.code) == ("refused" if code else "allowed", code)
    route, _, permission, counted = found.phases
    assert [part.what for part in route.parts if part.holds] == ([f"route {live.route}"] if live.route else [])
    assert (False in [phase.holds for phase in found.phases]) is (code != "")
    if permission.holds is not None:
        assert permission.holds is all(part.holds for part in permission.parts)
    if counted.holds is not None:
        assert counted.holds is all(part.holds for part in counted.parts)
    for trace in permission.parts:
        _ensure_sound(trace)


def _compiled(place: Path, document: dict[str, Any]) -> Policy:
    found = examine(written(place, yaml.safe_dump(document)), {})
    assume(found.policy is not None)
    assert found.policy is not None
    return found.policy


async def _checked(policy: Policy, identity: IdentityDocument, call: Call) -> tuple[Decision, Explanation]:
    """The decision of one simulator on the second of two calls, and the explanation by another."""
    simulators = Simulator(policy, 1e9), Simulator(policy, 1e9)
    requests = [_request(simulator, identity, *call) for simulator in simulators]
    for simulator, request in zip(simulators, requests, strict=True):
        await simulator.decide(request)
    return await simulators[0].decide(requests[0]), explanation(await simulators[1].check(requests[1]))


def _request(
    simulator: Simulator, identity: IdentityDocument, method: str, path: str, host: str, headers: dict[str, str]
) -> Request:
    claims = given_claims(identity, simulator.policy.issuers, simulator.clock.now())
    return Request(method, host, path, headers=headers, authorization=(simulator.callers.present(claims),))


def _ensure_sound(trace: Trace) -> None:
    """What a node says follows from what stands below it."""
    parts = [part.holds for part in trace.parts]
    what = trace.what.rpartition(": ")[2]
    if what == "any of":
        assert trace.holds is any(parts)
    elif what == "not":
        assert parts == [not trace.holds]
    elif parts:
        assert trace.holds is all(parts)
    for part in trace.parts:
        _ensure_sound(part)
