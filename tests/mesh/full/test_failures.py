"""What callers see while authorizers are replaced, killed or gone: no wrong answer, and few failed ones."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.mesh.full.load import post, running_load, status, wait_for_all
from tests.mesh.world.network import wait_until
from tests.mesh.world.pods import Pod
from tests.mesh.world.world import POLICY, World


@pytest.fixture(autouse=True)
def repaired(world: World) -> Iterator[None]:
    """Each test leaves two authorizers behind, and a gateway that knows them."""
    yield
    for pod in authorizers(world):
        if not pod.runs:
            pod.start_app()
            pod.wait_ready()
    world.publish_all()
    wait_for_all(world, 200)


def authorizers(world: World) -> list[Pod]:
    return [world.pods[name] for name in world.authorizers]


def test_authorizers_are_replaced_one_after_the_other(world: World) -> None:
    """As the chart's Deployment rolls: a new pod is ready before an old one gets its signal."""
    gone = []
    with running_load(world) as load:
        for name in world.authorizers:
            world.add_authorizer()
            gone.append(world.remove_authorizer(name))
            load.go_on(100)
        codes = [pod.wait_gone() for pod in gone]
        load.go_on(100)
    assert (load.wrong, load.failed) == ([], {})
    assert codes == [[0, 0], [0, 0]]


def test_one_of_two_authorizers_is_killed(world: World) -> None:
    """Its sidecar lives and answers for it: such a check is made again elsewhere, until outlier detection acts."""
    with running_load(world) as load:
        authorizers(world)[0].kill_app()
        load.go_on(800)
    assert (load.wrong, load.failed) == ([], {})


def test_no_authorizer_lives(world: World) -> None:
    for pod in authorizers(world):
        pod.kill_app()
    started = time.monotonic()
    answer = post(world)
    assert time.monotonic() - started < 5
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["code"] == "unavailable"


def test_no_authorizer_is_ready(world: World) -> None:
    world.publish([])
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
        for pod in authorizers(world):
            pod.write_config_map(text)
        wait_for_all(world, expected)
