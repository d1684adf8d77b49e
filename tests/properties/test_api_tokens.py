"""For every policy and every token that leaves something out: what it may do, its owner may do, at the same price."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ext_authz.decision import Allow, Answer, Decision, Deny, Request
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.policy.kserve import Right
from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import ModelNames
from ext_authz.policytool.simulator import Simulator
from tests.unit.policy import random_policies as some
from tests.unit.policytool.command_line import written
from tests.unit.policytool.test_api_tokens import Given

often = settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
conditions = st.sampled_from(
    ["!('tester' in identity.roles)", "size(identity.groups) < 2", "identity.scopes.exists(s, s == 's')"]
)
models = st.none() | st.lists(st.sampled_from([*some.MODELS, "c*", "*"]), max_size=3).map(
    lambda names: ModelNames(tuple(names))
)
denials = st.sampled_from(some.ROLES).map(lambda name: {"not": {"role": name}})
narrowings = st.tuples(st.sets(st.sampled_from(some.ROLES)), st.sets(st.sampled_from(some.SCOPES)), models)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@given(
    document=some.policies,
    when=st.none() | st.none() | conditions,
    permission=denials | some.permissions,
    of_model=denials | some.permissions,
    whole=some.identities,
    narrowing=narrowings,
    path=st.sampled_from(["/v2/models/cat/infer", "/v2/models/cancer/infer", "/v2/repository/index"]),
)
@often
def test_no_token_is_wider_than_its_owner(
    place: Path,
    document: dict[str, Any],
    when: str | None,
    permission: dict[str, Any],
    of_model: dict[str, Any],
    whole: Identity,
    narrowing: tuple[set[str], set[str], ModelNames | None],
    path: str,
) -> None:
    document["routes"] = [
        {"name": "infer", "path": "/v2/models/{model}/infer", "methods": ["POST"], "permission": permission},
        {"name": "index", "path": "/v2/repository/index", "methods": ["POST"], "permission": permission},
    ]
    document["models"] |= {"cat": {"call": of_model}}
    for route in document["routes"]:
        route |= {"limits": ["user"], **({"when": when} if when else {})}
    document["plans"] = {"few": {"roles": ["tester"]}}
    document["limits"] = {"user": {"key": ["user"], "plans": {"few": "2/minute", "default": "9/minute"}}}
    policy = _compiled(place, document)
    roles, scopes, names = narrowing
    token = replace(whole, roles=whole.roles & roles, scopes=whole.scopes & scopes, models=names, owner=whole)
    request = Request("POST", "h.example", path, authorization=("Bearer t",))
    narrow, wide = (asyncio.run(_decided(policy, who, request)) for who in (token, whole))
    if not isinstance(narrow, Deny):
        assert not isinstance(wide, Deny)
        assert narrow.quotas == wide.quotas
    if isinstance(narrow, Answer) and isinstance(wide, Answer):
        assert all(_sees(whole, *row, policy) for row in _rows(narrow))
    if isinstance(narrow, Allow) and names is not None and narrow.model:
        assert narrow.model in names


def _rows(answer: Answer) -> set[tuple[str, str]]:
    assert isinstance(answer.document, list)
    return {(row["name"], row.get("version", "")) for row in answer.document}


def _sees(identity: Identity, model: str, version: str, policy: Policy) -> bool:
    """Not whether the own index has the row: a pattern has none, and the index of a token that names a model of it has.
    A row without a version is of all, or of those that the policy does not name."""
    return any(may(identity, Right.SEE, model, version or each, policy) for each in ("", "unnamed"))


async def _decided(policy: Policy, identity: Identity, request: Request) -> Decision:
    return await Simulator(policy, 1e9, Given(identity)).decide(request)


def _compiled(place: Path, document: dict[str, Any]) -> Policy:
    found = examine(written(place, json.dumps(document)), {})
    assume(found.policy is not None and not found.faults)
    assert found.policy is not None
    return found.policy
