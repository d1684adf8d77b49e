"""What callers see while parts of Istio end: istiod, the gateway, sidecars. Each is started again, as by kubelet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.mesh.full.load import CALLERS, Load, post, running_load, wait_for_all
from tests.mesh.world.network import wait_until
from tests.mesh.world.pods import Pod
from tests.mesh.world.world import World

AUTHORIZERS = "outbound|9000||tollgate.tollgate.svc.cluster.local"


@pytest.fixture(autouse=True)
def repaired(world: World) -> Iterator[None]:
    yield
    world.publish_all()
    wait_for_all(world, 200)


def start_again(pod: Pod) -> None:
    pod.run_proxy()
    pod.wait_ready()


def wait_for_served(load: Load, calls: int) -> None:
    until = load.served.total() + calls
    wait_until(f"{calls} calls are served", lambda: load.served.total() >= until)


def test_istiod_is_away_and_comes_back(world: World) -> None:
    """A change of endpoints waits for it; of Istio's objects and of pods, the API server then admits none."""
    (istio_object,) = world.release.rendered.glob("*-virtualservice-*.yaml")
    with running_load(world) as load:
        world.control.istiod.kill()
        world.publish(world.authorizers[:1])
        with pytest.raises(AssertionError, match=r"failed calling webhook .*istio"):
            world.control.kubectl("replace", "--dry-run=server", "--filename", istio_object)
        with pytest.raises(AssertionError, match=r"failed calling webhook .*istio"):
            world.release.pods("tollgate", "tollgate", [99])
        load.go_on(300)
        assert len(world.gateway.hosts(AUTHORIZERS, "rq_total")) == 2
        world.control.start_istiod()
        wait_until("the change arrives", lambda: len(world.gateway.hosts(AUTHORIZERS, "rq_total")) == 1)
        load.go_on(100)
    assert (load.wrong, load.failed) == ([], {})


def stop(pod: Pod) -> None:
    """As kubelet does first."""
    assert pod.agent
    pod.agent.terminate()
    pod.agent.wait(30)


@pytest.mark.parametrize("end", [Pod.kill_proxy, stop])
def test_the_gateway_ends(world: World, end: Callable[[Pod], None]) -> None:
    """It is the only one: callers find nobody, and connect again when it listens. Istio's drain closes no connection
    early enough: the call that is under way when it ends breaks in both cases."""
    with running_load(world) as load:
        end(world.gateway)
        load.go_on(10)
        start_again(world.gateway)
        wait_for_served(load, 20)
        failed = load.failed.copy()
        load.go_on(200)
    assert (load.wrong, load.failed) == ([], failed)
    assert failed.total() - failed[httpx.ConnectError.__name__] <= CALLERS, failed


def test_the_sidecar_of_an_authorizer_is_killed(world: World) -> None:
    pod = world.pods[world.authorizers[0]]
    endpoint = f"{pod.network.address}:9000"
    with running_load(world) as load:
        pod.kill_proxy()
        load.go_on(400)
        before = world.gateway.hosts(AUTHORIZERS, "rq_success")[endpoint]
        start_again(pod)
        wait_until("it decides", lambda: world.gateway.hosts(AUTHORIZERS, "rq_success")[endpoint] > before)
        load.go_on(100)
    assert (load.wrong, load.failed) == ([], {})


def test_the_sidecar_of_triton_is_killed(world: World) -> None:
    """There is one Triton: what is allowed fails, and what is refused is still refused."""
    with running_load(world) as load:
        world.triton.kill_proxy()
        load.go_on(200)
        answer = post(world)
        start_again(world.triton)
        wait_until("every call is served", lambda: served(load))
    assert (load.wrong, set(load.failed)) == ([], {"503"})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_server_unavailable")


def served(load: Load) -> bool:
    failed = load.failed.copy()
    load.go_on(20)
    return load.failed == failed
