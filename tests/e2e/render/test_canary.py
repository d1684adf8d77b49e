"""A canary over thousands of users of a mesh: its share, that nobody changes sides, and its growth."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from ext_authz.render.endpoints import LOOPBACK, Timeouts
from tests.e2e.render.world import World, running_world
from tests.unit.render.policies import CANARY, EVERYDAY, of_kinds

USERS = [f"user-{number}" for number in range(2000)]
FEWER = USERS[:1000]
"""By the Gateway API: the authorizer chooses the variants, so the number is no other."""
TIMES = 4
PATIENT = Timeouts(check=30)
"""Nobody is refused because the machine is busy."""
_ANSWER = re.compile(rb'\{"model": "(\w+)"')

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module", params=["istio", "gateway-api"])
def renderer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def users(renderer: str) -> list[str]:
    return USERS if renderer == "istio" else FEWER


@pytest.fixture(scope="module")
def world(renderer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": CANARY})
    with running_world(renderer, policy, tmp_path_factory.mktemp("canary"), PATIENT) as world:
        yield world


def served(world: World, users: Iterable[str], times: int) -> dict[str, set[str]]:
    """Which models answered each of them."""
    with ThreadPoolExecutor(4) as callers:
        return dict(callers.map(lambda user: (user, set(_call(world, user, times))), users))


def _call(world: World, user: str, times: int) -> list[str]:
    """All requests in one write: a client that waits for each answer would take minutes."""
    request = (
        f"POST /v2/models/sentiment/infer HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {user}\r\n"
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    with socket.create_connection((LOOPBACK, world.port), timeout=30) as caller:
        caller.sendall(request.encode() * times)
        received = b""
        while len(models := _ANSWER.findall(received)) < times:
            part = caller.recv(65_536)
            assert part, received
            received += part
    return [model.decode() for model in models]


def test_a_canary_of_thousands_of_users(world: World, users: list[str]) -> None:
    before = served(world, users, TIMES)
    assert [user for user, models in before.items() if len(models) > 1] == []
    canary = [user for user in users if before[user] == {"canary"}]
    assert abs(len(canary) / len(users) - 0.10) < 0.015

    # The policy is reloaded; the gateway's configuration stays.
    world.authorizer.follow({"sentiment": replace(CANARY, weights={"stable": 70, "canary": 30})})
    after = served(world, users, 1)
    assert [user for user in canary if after[user] != {"canary"}] == []
    assert abs(sum(models == {"canary"} for models in after.values()) / len(after) - 0.30) < 0.015
