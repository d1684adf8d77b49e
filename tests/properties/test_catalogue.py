"""For every policy and caller: the catalogue lists exactly the models, and the versions, that a check would allow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.entry import MODELS
from ext_authz.catalogue.repository import Repository
from ext_authz.decision import Allow, Request
from ext_authz.identity.identity import Identity
from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy
from ext_authz.policytool.simulator import Simulator
from tests.fakes import FakeClock
from tests.properties.test_visible import callers, often
from tests.unit.catalogue.world import model
from tests.unit.policy import random_policies as some
from tests.unit.policytool.command_line import written
from tests.unit.policytool.test_api_tokens import Given

THERE = {name: ["1", "2"] for name in (*some.MODELS, "dog")}
"""In the repository; `dog` is in no policy but by a pattern."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("catalogue")
    for name in THERE:
        model(place / "repository", name, versions="1 2")
    return place


@given(models=some.models, caller=st.none() | callers)
@often
def test_the_catalogue_is_what_may_be_called(place: Path, models: dict[str, Any], caller: Identity | None) -> None:
    policy = _compiled(place, models)
    asyncio.run(_ensure_exact(policy, Catalogue(policy, Repository(place / "repository", FakeClock())), caller))


async def _ensure_exact(policy: Policy, catalogue: Catalogue, caller: Identity | None) -> None:
    listed = {entry.id: list(entry.versions) for entry in await catalogue.entries(caller)}
    callable_ = {}
    for name, versions in THERE.items():
        allowed = [
            each for each in versions if caller and await _allows(Simulator(policy, 1e9, Given(caller)), name, each)
        ]
        if allowed:
            callable_[name] = allowed
        assert (await catalogue.entry(caller, MODELS, name) is not None) == bool(allowed)
    assert listed == callable_


async def _allows(simulator: Simulator, name: str, version: str) -> bool:
    path = f"/v2/models/{name}/versions/{version}/infer"
    return isinstance(await simulator.decide(Request("POST", "h", path, authorization=("Bearer t",))), Allow)


@given(models=some.models, caller=callers)
@often
def test_without_a_repository_it_is_what_the_policy_names(
    place: Path, models: dict[str, Any], caller: Identity
) -> None:
    """Any version, also one that the policy does not name."""
    policy = _compiled(place, models)
    listed = {entry.id for entry in asyncio.run(Catalogue(policy, None).entries(caller))}
    simulator = Simulator(policy, 1e9, Given(caller))
    asked = {
        name: [_allows(simulator, name, version) for version in ("1", "2", "3")] for name in models if "*" not in name
    }

    async def callable_() -> set[str]:
        return {name for name, calls in asked.items() if any([await call for call in calls])}

    assert listed == asyncio.run(callable_())


def _compiled(place: Path, models: dict[str, Any]) -> Policy:
    document = {
        "version": 1,
        "issuers": [{"name": "kc", "issuer": "https://id.example", "audiences": ["g"]}],
        "models": models,
        "routes": [{"name": "infer", "operation": "infer"}],
    }
    found = examine(written(place, json.dumps(document)), {})
    assume(found.policy is not None and not found.faults)
    assert found.policy is not None
    return found.policy
