"""One whole stack for this folder, and a caller of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack import realm as devrealm
from devstack.stack.stack import Stack, running_stack
from tests.e2e.gateway.caller import Caller

REALM = Path(devrealm.__file__).parent / "realm-tollgate.json"


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On free ports, with a state directory of its own."""
    directory = tmp_path_factory.mktemp("stack")
    realm = directory / "realm.json"
    realm.write_text(json.dumps(_with_roles(json.loads(REALM.read_text()), collector=200, hoarder=480)))
    with running_stack(directory, realm=realm) as running:
        yield running


def _with_roles(realm: dict[str, Any], **users: int) -> dict[str, Any]:
    """Users like alice, with so many roles more."""
    alice = realm["users"][0]
    for name, count in users.items():
        roles = [f"{name}-of-models-in-team-{number:03}" for number in range(count)]
        realm["roles"]["client"]["triton-gateway"] += [{"name": role} for role in roles]
        realm["users"].append(
            {
                **alice,
                "username": name,
                "email": f"{name}@tollgate.example",
                "credentials": [{**alice["credentials"][0], "value": name}],
                "clientRoles": {"triton-gateway": ["infer", *roles]},
            }
        )
    return realm


@pytest.fixture
def caller(stack: Stack) -> Iterator[Caller]:
    """Calls through Envoy; every test has a session of its own."""
    with Caller(stack) as someone:
        yield someone
