"""The gateway calls nobody who has another service's certificate, and lets nothing through without the check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from msgspec.structs import replace

from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.gateway_api import objects as gateway_api
from ext_authz.render.istio import objects as istio
from ext_authz.render.istio.manifest import Manifest
from ext_authz.render.istio.mesh import Mesh
from tests.e2e.render.test_rendered import INFER
from tests.e2e.render.world import running_world
from tests.mesh.gateway import Identities
from tests.unit.render.policies import EVERYDAY, of_kinds

pytestmark = pytest.mark.mesh


@pytest.mark.parametrize(("impersonated", "checks"), [("tollgate/tollgate", 0), ("models/triton", 1)])
def test_an_intruder_in_the_place_of_a_service_gets_no_call(
    impersonated: str, checks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Identities.sidecar

    def sidecar(self: Identities, service: str) -> Json:
        return real(self, "models/intruder" if service == impersonated else service)

    monkeypatch.setattr(Identities, "sidecar", sidecar)
    with running_world("istio", of_kinds(*EVERYDAY), tmp_path) as world:
        answer = httpx.post(world.url + INFER, json={}, timeout=10)
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert len(world.authorizer.asked) == checks
        assert world.reached() == []


@pytest.mark.parametrize(("renderer", "module"), [("istio", istio), ("gateway-api", gateway_api)])
def test_without_the_provider_in_the_mesh_configuration_nothing_is_let_through(
    renderer: str, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: Callable[[Policy, Mesh, Timeouts], list[Manifest]] = module.objects

    def forgotten(policy: Policy, mesh: Mesh, bounds: Timeouts) -> list[Manifest]:
        provider, *others = rendered(policy, mesh, bounds)
        return [replace(provider, content={"meshConfig": {}}), *others]

    monkeypatch.setattr(module, "objects", forgotten)
    with running_world(renderer, of_kinds(*EVERYDAY), tmp_path) as world:
        answer = httpx.post(world.url + INFER, json={}, timeout=10)
        assert answer.status_code == httpx.codes.FORBIDDEN
        assert world.authorizer.asked == world.reached() == []
