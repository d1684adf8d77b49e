"""Other people's routes at our Gateway, and the listener for plain HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from ext_authz.decision import Deny, Reason
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Timeouts
from ext_authz.render.gateway_api import objects as gateway_api
from ext_authz.render.istio.manifest import Manifest, manifest
from ext_authz.render.istio.mesh import Mesh
from tests.e2e.render.test_rendered import INFER
from tests.e2e.render.world import running_world
from tests.unit.render.policies import EVERYDAY, of_kinds

pytestmark = pytest.mark.mesh

Change = Callable[[Callable[[Mesh], list[Manifest]], Mesh], list[Manifest]]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """What is rendered."""
    real: Callable[[Policy, Mesh, Timeouts], list[Manifest]] = gateway_api.objects

    def changes(by: Change) -> None:
        def objects(policy: Policy, mesh: Mesh, bounds: Timeouts) -> list[Manifest]:
            return by(lambda mesh: real(policy, mesh, bounds), mesh)

        monkeypatch.setattr(gateway_api, "objects", objects)

    return changes


def _route(namespace: str, rule: str, path: str) -> Manifest:
    """To the model, in front of all routes of ours."""
    spec = {
        "parentRefs": [{"name": "tollgate", "namespace": "istio-ingress"}],
        "rules": [
            {
                "name": rule,
                "matches": [{"path": {"type": "Exact", "value": path}}],
                "backendRefs": [{"name": "triton", "namespace": "models", "port": 8000}],
            }
        ],
    }
    return manifest(80, "HTTPRoute", f"a-{rule}", namespace, spec, why="Somebody else's.")


def test_routes_of_others_are_checked_or_not_attached(change: Callable[[Change], None], tmp_path: Path) -> None:
    names = ["own", "rest", "redirect", "tollgate-about"]
    paths = {name: f"/v2/repository/models/{name}/load" for name in names}
    beside = [_route("istio-ingress", name, path) for name, path in paths.items()]
    change(lambda real, mesh: [*real(mesh), *beside, _route("other", "elsewhere", INFER + "x")])
    with running_world("gateway-api", of_kinds(*EVERYDAY), tmp_path) as world:
        world.authorizer.fails = Deny(str(uuid.uuid4()), Reason.FORBIDDEN, "no_route", "no")
        for path in paths.values():
            assert httpx.post(world.url + path, json={}).status_code == httpx.codes.FORBIDDEN
        assert len(world.authorizer.asked) == len(paths)
        assert world.reached() == []
        world.forget()
        assert httpx.post(world.url + paths["own"], json={}).status_code == httpx.codes.OK, "the route is there"
        world.forget()
        assert httpx.post(world.url + INFER + "x", json={}).status_code == httpx.codes.NOT_FOUND
        assert len(world.authorizer.asked) == 1
        assert world.reached() == []


def test_plain_http_is_redirected_and_neither_checked_nor_routed(
    change: Callable[[Change], None], tmp_path: Path
) -> None:
    change(lambda real, mesh: real(replace(mesh, tls_secret="tollgate-tls")))
    with running_world("gateway-api", of_kinds(*EVERYDAY), tmp_path) as world:
        for path in (INFER, "/anything", "/.tollgate/quota"):
            answer = httpx.post(world.url + path, json={}, headers={"authorization": "Bearer alice"})
            assert answer.status_code == httpx.codes.MOVED_PERMANENTLY
            assert answer.headers["location"].startswith("https://127.0.0.1")
        assert world.authorizer.asked == world.reached() == []
