"""Routes with the filter ExternalAuth: the definitions of the experimental channel admit them, the others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.k8s.programs import ROOT, Object, objects
from tests.mesh.world.api_server import ApiServer, module_directory, running_api_server
from tests.mesh.world.network import run
from tests.services import wait_for

_COOKBOOK = ROOT / "docs" / "cookbook"
_SAFE_UPGRADES = "safe-upgrades.gateway.networking.k8s.io"
"""By which the standard channel refuses definitions of the experimental one."""


@pytest.fixture(scope="module")
def standard() -> Iterator[ApiServer]:
    with running_api_server() as started:
        for namespace in ("istio-ingress", "models", "tollgate"):
            started.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        yield started


@pytest.fixture(scope="module")
def experimental(standard: ApiServer) -> ApiServer:
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        standard.kubectl("delete", kind, _SAFE_UPGRADES)
    definitions = module_directory("sigs.k8s.io/gateway-api") / "config" / "crd" / "experimental"
    file = definitions / "gateway.networking.k8s.io_httproutes.yaml"
    apply = partial(standard.kubectl, "apply", "--server-side", "--force-conflicts", "-f", file)
    wait_for(lambda: _no_longer(_SAFE_UPGRADES, apply))
    return standard


def _no_longer(reason: str, do: Callable[[], object]) -> bool:
    """The API server takes a moment to forget what it refused."""
    try:
        do()
    except AssertionError as refused:
        if reason in str(refused):
            return False
        raise
    return True


def rendered(name: str, out: Path) -> list[Object]:
    options = ("--external-auth", "--gateway-class", "some", "--out", out)
    run("tollgate", "policy", "render", "gateway-api", _COOKBOOK / name / "policy.yaml", *options)
    return [one for path in sorted(out.glob("*.yaml")) for one in objects(path.read_text())]


def test_only_the_experimental_channel_has_the_filter(standard: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match='unknown field "externalAuth"'):
        standard.apply(*rendered("01-public-health", tmp_path))


@pytest.mark.parametrize("name", ["01-public-health", "02-teams-by-group", "13-grpc-only"])
def test_the_experimental_definitions_admit_it(experimental: ApiServer, name: str, tmp_path: Path) -> None:
    found = rendered(name, tmp_path)
    wait_for(lambda: _no_longer('unknown field "externalAuth"', partial(experimental.apply, *found)))
    kept = experimental.read("httproute", "tollgate", "istio-ingress")["spec"]["rules"]
    (wanted,) = [
        one["spec"]["rules"] for one in found if one["metadata"]["name"] == "tollgate" and "rules" in one["spec"]
    ]
    assert [rule["filters"][1]["externalAuth"]["protocol"] for rule in kept] == ["GRPC"] * len(wanted)
