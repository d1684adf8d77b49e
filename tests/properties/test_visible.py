"""For every policy and caller: the lists of models say exactly what checks decide, and who may not see a model cannot
tell it from none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ext_authz.decision import Allow, Answer, Decision, Request
from ext_authz.edge.response import Responder
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.phases.model_reads import OTHERS, Access, VisibleModel, visible
from ext_authz.policy.kserve import Right
from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import ModelNames
from ext_authz.policytool.simulator import Simulator
from tests.unit.policy import random_policies as some
from tests.unit.policytool.command_line import written
from tests.unit.policytool.test_api_tokens import Given

often = settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
VERSIONS = ["", "1", "2", "3"]
SERVICE = "/inference.GRPCInferenceService"
NONE = Access(call=False, see=False)
UNKNOWN = "zzz"
"""No policy names it; as long as `cat`, so that all lengths are the same."""

limits = st.none() | st.lists(st.sampled_from([*some.MODELS, "c*", "ca*", "*", "dog"]), max_size=3).map(
    lambda names: ModelNames(tuple(names))
)
callers: st.SearchStrategy[Identity] = st.builds(
    lambda whole, roles, models, narrowed: replace(
        whole, models=models, **({"roles": whole.roles & roles, "owner": whole} if narrowed else {})
    ),
    some.identities,
    st.sets(st.sampled_from(some.ROLES)),
    limits,
    st.booleans(),
)
conditions = st.sampled_from(["model.name != 'cat'", "model.name.startswith('c')", "size(identity.groups) < 2"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@given(models=some.models, identity=callers)
@often
def test_the_list_is_what_may_be_called_and_seen(place: Path, models: dict[str, Any], identity: Identity) -> None:
    kinds = [{"name": kind, "operation": kind} for kind in ("infer", "metadata", "repository")]
    policy = _compiled(place, _document(models, kinds))
    asyncio.run(_ensure_exact(Simulator(policy, 1e9, Given(identity)), identity, models))


async def _ensure_exact(simulator: Simulator, identity: Identity, models: dict[str, Any]) -> None:
    listed = {model.name: model for model in visible(identity, simulator.policy)}
    named = {*models, *(identity.models.written if identity.models else ())}
    for name in [*some.MODELS, "dog"]:
        for version in VERSIONS:
            rule = simulator.policy.models.rule(name)
            said = _said(listed.get(name), version, rule.versions if rule else ())
            may_call, may_see = [await _allows(simulator, name, version, what) for what in ("infer", "")]
            assert said == (Access(call=may_call, see=may_see) if name in named else NONE), (name, version)
    index = await simulator.decide(Request("POST", "h", "/v2/repository/index", authorization=("Bearer t",)))
    if isinstance(index, Answer):
        assert isinstance(index.document, list)
        for row in index.document:
            versions = [row["version"]] if "version" in row else ["", "9"]
            assert any([await _allows(simulator, row["name"], version, "") for version in versions])
        seen = {name for name, model in listed.items() if "*" not in name and _seen_at_all(model)}
        assert {row["name"] for row in index.document} == seen


@given(
    document=some.policies,
    identity=callers,
    when=st.none() | conditions,
    permission=some.permissions,
    what=st.sampled_from(
        ["", "/infer", "/generate", "/stats", "/config", "/ready", "/versions/2", "/versions/2/infer"]
    ),
    method=st.sampled_from(["ModelInfer", "ModelMetadata", "ModelReady"]),
)
@often
def test_who_may_not_see_a_model_cannot_tell_it_from_none(
    place: Path,
    document: dict[str, Any],
    identity: Identity,
    when: str | None,
    permission: dict[str, Any],
    what: str,
    method: str,
) -> None:
    for route in document["routes"] if when else ():
        route["when"] = when
    document["routes"] += [{"name": "health", "operation": "health"}, {"name": "generate", "operation": "generate"}]
    document["routes"] = [*{route.get("operation", route["name"]): route for route in document["routes"]}.values()]
    document["routes"].append({"name": "grpc", "grpc": f"{SERVICE[1:]}/{method}", "permission": permission})
    document["models"].setdefault("cat", {"roles": ["nobody-has-it"]})
    document["limits"] = {"user": {"key": ["user", "model"], "rate": "9/minute"}}
    document["routes"][0]["limits"] = ["user"]
    policy = _compiled(place, document)
    assume(not any(may(identity, right, "cat", each, policy) for right in Right for each in [*VERSIONS, OTHERS]))
    assume(not any(may(identity, right, UNKNOWN, each, policy) for right in Right for each in [*VERSIONS, OTHERS]))
    assume(identity.models is None or ("cat" in identity.models) == (UNKNOWN in identity.models))
    for one, other in zip(_requests("cat", what, method), _requests(UNKNOWN, what, method), strict=True):
        seen, instead = _seen(policy, identity, one), _seen(policy, identity, other)
        assert seen.replace(b"cat", b"zzz") == instead.replace(b"cat", b"zzz")  # "cat" is in "application", too


def _requests(model: str, what: str, method: str) -> list[Request]:
    path = f"/v2/models/{model}{what}"
    verb = "POST" if what.endswith(("/infer", "/generate")) else "GET"
    bearer = ("Bearer t",)
    return [
        Request(verb, "h.example", path, authorization=bearer),
        Request(
            "POST", "h", f"{SERVICE}/{method}", authorization=bearer, content_type="application/grpc", models=(model,)
        ),
        Request("GET", "h", "/.tollgate/quota", f"model={model}", authorization=bearer),
        Request("GET", "h", "/.tollgate/quota", f"path={path}&method={verb}", authorization=bearer),
    ]


def _seen(policy: Policy, identity: Identity, request: Request) -> bytes:
    """All that Envoy gets of it, and what was counted and recorded; as often as a quota could show a difference."""
    simulator = Simulator(policy, 1e9, Given(identity))
    responder = Responder(policy.realm, policy.responses, policy.hash)
    decisions = asyncio.run(_twice(simulator, request))
    found = [responder.build(replace(each, decision_id="0" * 36), request.is_grpc) for each in decisions]
    counted, ledger = simulator.counters._limits._windows, simulator.counters.ledger
    return b"".join(found) + f"{counted} {len(ledger)}".encode()


async def _twice(simulator: Simulator, request: Request) -> list[Decision]:
    return [await simulator.decide(request) for _ in range(2)]


def _seen_at_all(model: VisibleModel) -> bool:
    return model.see or any(access.see for access in model.versions.values())


def _said(model: VisibleModel | None, version: str, named: Collection[str]) -> Access:
    """What the list says of a version, to somebody who knows which ones the policy names."""
    if model is None:
        return NONE
    if not version or not model.versions:
        return Access(model.call, model.see)
    return model.versions.get(version if version in named else OTHERS, NONE)


async def _allows(simulator: Simulator, name: str, version: str, what: str) -> bool:
    path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + (f"/{what}" if what else "")
    request = Request("POST" if what else "GET", "h", path, authorization=("Bearer t",))
    return isinstance(await simulator.decide(request), Allow)


def _document(models: dict[str, Any], routes: list[dict[str, Any]]) -> dict[str, Any]:
    issuers = [{"name": "kc", "issuer": "https://id.example", "audiences": ["g"]}]
    return {"version": 1, "issuers": issuers, "models": models, "routes": routes}


def _compiled(place: Path, document: dict[str, Any]) -> Policy:
    found = examine(written(place, json.dumps(document)), {})
    assume(found.policy is not None and not found.faults)
    assert found.policy is not None
    return found.policy
