"""Every render: what istioctl says of it, and a real API server with definitions of all kinds and restricted pods."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ext_authz.render.istio.access import MESH_CONFIG
from tests.docs.test_cookbook import FOLDERS
from tests.fuzz.policies import ENVIRON
from tests.k8s.api_server import RESTRICTED, ApiServer
from tests.k8s.programs import ROOT, TOOLS, Object, objects, pods, template
from tests.k8s.test_chart import EXAMPLES
from tests.k8s.test_kustomize import DIRECTORIES
from tests.mesh.world.network import run

_POLICIES = {folder.name: folder / "policy.yaml" for folder in FOLDERS}
_POLICIES["demo"] = ROOT / "devstack" / "stack" / "policy.yaml"
ISTIO = sorted({path.parent for path in (ROOT / "istio").rglob("*.yaml") if path.parent.name != "istiod"})
_ALL = ("--set", "authorizer.autoscaling.enabled=true,caConfigMap=ca,monitoring.dashboards=true,resourceQuota.pods=40")
_NAMES = (
    *("--set-json", 'triton.variants={"1": {}, "on": {"models": {"claim": "1e3"}}}'),
    *(
        "--set-json",
        'database.secret={"name": "123", "key": "0"}',
        "--set-json",
        'policy.env={"NO": "1", "Y": "no: #"}',
    ),
    *("--set-string", "triton.namespace=1,mesh.gatewayNamespace=2,caConfigMap=3,policy.existingConfigMap=0x1"),
)
"""That YAML reads as numbers and truth values, if they are not quoted."""
CHARTS: dict[str, tuple[str | Path, ...]] = {
    "default": (),
    "everything": _ALL,
    "names": _NAMES,
    **{path.stem: ("--values", path) for path in EXAMPLES},
}


_RENDERERS = ("istio", "gateway-api")
_EVERYTHING_ELSE = (
    *("--triton", "tollgate/tollgate-triton", "--host", "models.example.com", "--tls-secret", ""),
    *("--metrics-principal", "cluster.local/ns/monitoring/sa/prometheus", "--gateway-namespace", "edge"),
)


@pytest.fixture(scope="module")
def mesh(server: ApiServer) -> ApiServer:
    for namespace in ("tollgate", "models", "istio-ingress", "edge", "1"):
        server.create_namespace(namespace, **RESTRICTED)
    return server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which some policies of the cookbook take values."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("renderer", _RENDERERS)
@pytest.mark.parametrize("policy", _POLICIES.values(), ids=_POLICIES)
def test_what_a_policy_renders_is_valid(mesh: ApiServer, policy: Path, renderer: str, tmp_path: Path) -> None:
    _assert_valid(mesh, _rendered(renderer, policy, tmp_path))


@pytest.mark.parametrize("renderer", _RENDERERS)
@pytest.mark.parametrize("name", ["demo", "08-canary"])
def test_what_it_renders_with_other_options_is_valid(mesh: ApiServer, name: str, renderer: str, tmp_path: Path) -> None:
    _assert_valid(mesh, _rendered(renderer, _POLICIES[name], tmp_path, *_EVERYTHING_ELSE))


def test_what_it_renders_for_ambient_mode_is_valid(mesh: ApiServer, tmp_path: Path) -> None:
    _assert_valid(mesh, _rendered("gateway-api", _POLICIES["02-teams-by-group"], tmp_path, "--ambient"))


@pytest.mark.parametrize("options", CHARTS.values(), ids=CHARTS)
def test_the_chart_is_valid_for_istio(mesh: ApiServer, options: tuple[str | Path, ...]) -> None:
    _assert_valid(mesh, template(*options))


@pytest.mark.parametrize("directory", DIRECTORIES.values(), ids=DIRECTORIES)
def test_the_overlay_is_valid_for_istio(mesh: ApiServer, directory: Path) -> None:
    _assert_valid(mesh, objects(run("kubectl", "kustomize", directory)))


@pytest.mark.parametrize("directory", ISTIO, ids=lambda path: path.name)
def test_the_objects_of_istio_are_valid(mesh: ApiServer, directory: Path) -> None:
    _assert_valid(mesh, _objects_in(directory))


def test_two_releases_replace_no_object_of_each_other(mesh: ApiServer, tmp_path: Path) -> None:
    found = []
    for release, gateway in (("x", "istio-ingress"), ("z", "edge")):
        names = ("--authorizer", f"tollgate/{release}", "--triton", f"tollgate/{release}-triton")
        options = (*names, "--gateway-namespace", gateway)
        found.append(_rendered("istio", _POLICIES["08-canary"], tmp_path / release, *options))
        providers = yaml.safe_load((tmp_path / release / MESH_CONFIG).read_text())["meshConfig"]["extensionProviders"]
        assert [provider["name"] for provider in providers] == [release, f"{release}-access-log"]
        _assert_valid(mesh, found[-1])
    one, other = (
        {(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item for item in items}
        for items in found
    )
    assert {key: one[key] for key in one.keys() & other} == {key: other[key] for key in one.keys() & other}
    assert {kind for kind, *_ in one.keys() & other} <= {"ServiceEntry"}  # of their issuers


def test_a_timeout_of_nothing_would_be_refused(mesh: ApiServer) -> None:
    items = _objects_in(ROOT / "istio")
    [routes] = (item for item in items if item["kind"] == "VirtualService")
    routes["spec"]["http"][0]["timeout"] = "0s"
    with pytest.raises(AssertionError, match="duration must be greater than 1ms"):
        run(TOOLS / "istioctl", "validate", "-f", "-", stdin=yaml.safe_dump_all(items))
    with pytest.raises(AssertionError, match="must be a valid duration greater than 1ms"):
        mesh.apply(items, "--dry-run=server")


def test_a_pod_that_is_not_restricted_would_be_refused(mesh: ApiServer) -> None:
    [pod, *_] = pods(template())
    del pod["spec"]["securityContext"]
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        mesh.apply([pod], "--dry-run=server")


def _rendered(renderer: str, policy: Path, directory: Path, *options: str) -> list[Object]:
    run("tollgate", "policy", "render", renderer, policy, *options, "--out", directory)
    return _objects_in(directory)


def _objects_in(directory: Path) -> list[Object]:
    """Those of the API server: below `istiod` is what Istio's chart reads."""
    return [item for path in sorted(directory.glob("*.yaml")) for item in objects(path.read_text())]


def _assert_valid(server: ApiServer, items: list[Object]) -> None:
    run(TOOLS / "istioctl", "validate", "-f", "-", stdin=yaml.safe_dump_all(items))
    asked = items + pods(items)  # of a Deployment whose pods would be refused, the API server only warns
    assert server.apply(asked, "--dry-run=server").count("serverside-applied") == len(asked)
