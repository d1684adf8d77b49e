"""Nobody but the gateway reaches Triton and the authorizer, and everything between them is encrypted."""

from __future__ import annotations

import pytest

from tests.mesh.world.pods import Pod
from tests.mesh.world.world import World

EVERYONE = {"triton": 8000, "tollgate": 9000}


def pod_of(world: World, service: str) -> Pod:
    return world.triton if service == "triton" else world.pods[world.authorizers[0]]


def status(world: World, pod: str, url: str, *options: str) -> str:
    write = ("--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "5")
    return world.pods[pod].network.run("curl", *write, *options, url)


@pytest.mark.parametrize("service", EVERYONE)
def test_plain_text_is_refused(world: World, service: str) -> None:
    """From the bridge, where no sidecar makes mutual TLS of it."""
    address = f"http://{pod_of(world, service).network.address}:{EVERYONE[service]}/v2/health/ready"
    with pytest.raises(AssertionError, match="exit 56"):
        world.control.network.run("curl", "--silent", "--show-error", "--max-time", "5", address)


@pytest.mark.parametrize("service", EVERYONE)
def test_a_member_of_the_mesh_is_refused(world: World, service: str) -> None:
    host = "tollgate-triton.models" if service == "triton" else "tollgate.tollgate"
    to = f"{host}:{EVERYONE[service]}:{pod_of(world, service).network.address}"
    url = f"http://{host}:{EVERYONE[service]}/v2/health/ready"
    assert status(world, "intruder", url, "--resolve", to) == "403"
