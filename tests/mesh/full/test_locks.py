"""Nobody but the gateway reaches Triton and the authorizer, and everything between them is encrypted."""

from __future__ import annotations

import pytest

from tests.mesh.world.world import World

READY = "http://tollgate-triton.models:8000/v2/health/ready"
EVERYONE = {"tollgate-triton-stable-0": 8000, "tollgate-0": 9000, "tollgate-1": 9000}


def status(world: World, pod: str, url: str, *options: str) -> str:
    write = ("--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "5")
    return world.pods[pod].network.run("curl", *write, *options, url)


@pytest.mark.parametrize("pod", EVERYONE)
def test_plain_text_is_refused(world: World, pod: str) -> None:
    """From the bridge, where no sidecar makes mutual TLS of it."""
    address = f"http://{world.pods[pod].network.address}:{EVERYONE[pod]}/v2/health/ready"
    with pytest.raises(AssertionError, match="exit 56"):
        world.control.network.run("curl", "--silent", "--show-error", "--max-time", "5", address)


@pytest.mark.parametrize("pod", EVERYONE)
def test_a_member_of_the_mesh_is_refused(world: World, pod: str) -> None:
    service = "tollgate-triton.models" if "triton" in pod else "tollgate.tollgate"
    to = f"{service}:{EVERYONE[pod]}:{world.pods[pod].network.address}"
    url = f"http://{service}:{EVERYONE[pod]}/v2/health/ready"
    assert status(world, "intruder", url, "--resolve", to) == "403"
