"""What callers see while authorizers are replaced, killed or gone: no wrong answer, and few failed ones."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.mesh.full.callers import BODIES, CANCER, bearer
from tests.mesh.full.load import running_load
from tests.mesh.world.network import wait_until
from tests.mesh.world.world import AUTHORIZERS, POLICY, World


@pytest.fixture(autouse=True)
def repaired(world: World) -> Iterator[None]:
    """Each test leaves two authorizers behind, and a gateway that knows them."""
    yield
    world.set_endpoints("tollgate", list(AUTHORIZERS))
    for name in AUTHORIZERS:
        if not world.authorizers[name].is_running:
            world.start_authorizer(name)
    wait_for_all(world, 200)


def wait_for_all(world: World, expected: int) -> None:
    wait_until(f"every call gets {expected}", lambda: {status(world) for _ in range(20)} == {expected})


def status(world: World) -> int:
    return post(world).status_code


def post(world: World) -> httpx.Response:
    with world.client() as client:
        return client.post(CANCER, json=BODIES[CANCER], headers=bearer())


def test_authorizers_are_replaced_one_after_the_other(world: World) -> None:
    with running_load(world) as load:
        for name in AUTHORIZERS:
            world.replace_authorizer(name)
            load.go_on(100)
    assert (load.wrong, load.failed) == ([], {})


def test_one_of_two_authorizers_is_killed(world: World) -> None:
    """Its sidecar lives and answers for it, until outlier detection takes it out."""
    with running_load(world) as load:
        world.authorizers["tollgate-0"].kill()
        load.go_on(800)
    assert load.wrong == []
    assert set(load.failed) == {"503"}
    assert load.failed.total() <= 20  # without it, most calls fail until the pod is gone


def test_no_authorizer_lives(world: World) -> None:
    for name in AUTHORIZERS:
        world.authorizers[name].kill()
    started = time.monotonic()
    answer = post(world)
    assert time.monotonic() - started < 5
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["code"] == "unavailable"


def test_no_authorizer_is_ready(world: World) -> None:
    world.set_endpoints("tollgate", [])
    wait_until("no call is decided", lambda: status(world) == 503)


def test_there_is_no_service_of_authorizers(world: World) -> None:
    """Istio then refuses every request itself."""
    service = world.control.read("service", "tollgate", "tollgate")
    world.control.kubectl("delete", "service", "tollgate", "--namespace", "tollgate")
    try:
        wait_until("Istio refuses", lambda: status(world) == 403)
        assert "deny-due-to-bad-CUSTOM-action" in post(world).text
    finally:
        world.control.apply(
            {key: service[key] for key in ("apiVersion", "kind", "spec")}
            | {"metadata": {"name": "tollgate", "namespace": "tollgate"}}
        )


def test_a_policy_that_is_swapped_as_kubelet_does_comes_into_force(world: World) -> None:
    before = POLICY.read_text()
    changed = before.replace("cancer: {roles: [infer, doctor]}", "cancer: {roles: [doctor]}")
    for text, expected in ((changed, 403), (before, 200)):
        for name in AUTHORIZERS:
            world.write_policy(name, text)
        wait_for_all(world, expected)
