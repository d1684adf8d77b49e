"""The chart's objects before a real API server: its schemas, and the admission of restricted Pod Security."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.k8s.api_server import ApiServer
from tests.k8s.programs import CHART, pods, template
from tests.k8s.test_chart import EXAMPLES

_ALL = ("--set", "authorizer.autoscaling.enabled=true,caConfigMap=ca,monitoring.dashboards=true,resourceQuota.pods=40")
RENDERS: dict[str, tuple[str | Path, ...]] = {
    "default": (),
    "everything": _ALL,
    **{path.stem: ("--values", path) for path in EXAMPLES},
}


@pytest.fixture(scope="module")
def restricted(server: ApiServer) -> str:
    for name in ("restricted", "models"):
        server.create_namespace(name, **{"pod-security.kubernetes.io/enforce": "restricted"})
    return "restricted"


@pytest.mark.parametrize("options", RENDERS.values(), ids=RENDERS)
def test_the_api_server_takes_every_object(server: ApiServer, restricted: str, options: tuple[str | Path, ...]) -> None:
    items = template(*options, namespace=restricted)
    taken = server.apply(items, "--dry-run=server")
    assert taken.count("serverside-applied") == len(items)


@pytest.mark.parametrize("options", RENDERS.values(), ids=RENDERS)
def test_restricted_pod_security_admits_every_pod(
    server: ApiServer, restricted: str, options: tuple[str | Path, ...]
) -> None:
    """Deployments are admitted with a warning only; so the pods themselves are asked about."""
    for pod in pods(template(*options, namespace=restricted)):
        server.apply([pod], "--dry-run=server")


def test_restricted_pod_security_would_refuse(server: ApiServer, restricted: str) -> None:
    [pod, *_] = pods(template(namespace=restricted))
    del pod["spec"]["securityContext"]
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        server.apply([pod], "--dry-run=server")


def test_helm_installs_two_releases_in_one_namespace_and_removes_them(server: ApiServer, tmp_path: Path) -> None:
    chart = _for_any_version(tmp_path)
    server.create_namespace("shared")
    for release in ("x", "x-tollgate"):
        notes = server.helm("install", release, chart, "--namespace", "shared", "--no-hooks")
        assert f"--authorizer shared/{release} --gateway-namespace istio-ingress" in notes
    server.helm("upgrade", "x", chart, "--namespace", "shared", "--no-hooks", "--set", "authorizer.replicas=3")
    kept = ("get", "deployment", "-n", "shared", "-o", "jsonpath={.items[*].spec.replicas}")
    assert server.kubectl(*kept) == "3 2 1 2 1 2"
    for release in ("x", "x-tollgate"):
        server.helm("uninstall", release, "--namespace", "shared", "--no-hooks")
    assert not server.kubectl("get", "all,networkpolicies,poddisruptionbudgets", "-n", "shared", "-o", "name")


def _for_any_version(directory: Path) -> Path:
    """The API server was built from its sources, and says that it is version 0.0.0."""
    copy = shutil.copytree(CHART, directory / "chart")
    about = copy / "Chart.yaml"
    about.write_text(re.sub("(?m)^kubeVersion:.*$", "", about.read_text()))
    return copy
