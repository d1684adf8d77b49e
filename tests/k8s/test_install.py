"""The chart as Helm installs it on a real API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.k8s.api_server import ApiServer
from tests.k8s.programs import for_any_version


def test_helm_installs_two_releases_in_one_namespace_and_removes_them(server: ApiServer, tmp_path: Path) -> None:
    chart = for_any_version(tmp_path)
    server.create_namespace("shared")
    for release in ("x", "x-tollgate"):
        notes = server.helm("install", release, chart, "--namespace", "shared", "--no-hooks")
        assert f"--authorizer shared/{release} --gateway-namespace istio-ingress" in notes
        assert f"--usage-worker shared/{release}-usage-worker --out istio" in notes
    server.helm("upgrade", "x", chart, "--namespace", "shared", "--no-hooks", "--set", "authorizer.replicas=3")
    kept = ("get", "deployment", "-n", "shared", "-o", "jsonpath={.items[*].spec.replicas}")
    assert server.kubectl(*kept) == "3 2 1 2 1 2"
    for release in ("x", "x-tollgate"):
        server.helm("uninstall", release, "--namespace", "shared", "--no-hooks")
    assert not server.kubectl("get", "all,networkpolicies,poddisruptionbudgets", "-n", "shared", "-o", "name")


_MESH = """
extensionProviders:
  - {name: other, zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411}}
  - name: tollgate
    envoyExtAuthzGrpc: {service: x.notes.svc.cluster.local, port: 9000}
"""


@pytest.fixture
def x(server: ApiServer, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Installs the release x, and returns its notes."""
    chart = for_any_version(tmp_path)
    server.create_namespace("notes")
    server.create_namespace("istio-system")

    def install(*options: str) -> str:
        return server.helm("install", "x", chart, "--namespace", "notes", "--no-hooks", *options)

    yield install
    server.helm("uninstall", "x", "--namespace", "notes", "--no-hooks", "--ignore-not-found")
    server.kubectl("delete", "configmaps", "-n", "istio-system", "--all")


def test_the_notes_say_that_the_mesh_configuration_names_the_authorizer(
    server: ApiServer, x: Callable[..., str]
) -> None:
    _configure_mesh(server, "istio", _MESH)
    assert "It is there: istio-system/istio names tollgate." in x()


@pytest.mark.parametrize("text", ["{}", "extensionProviders: []", _MESH.replace("x.notes", "xx.notes")])
def test_the_notes_say_that_the_provider_is_missing(server: ApiServer, x: Callable[..., str], text: str) -> None:
    _configure_mesh(server, "istio-canary", text)
    notes = x("--set", "mesh.configMap=istio-system/istio-canary")
    assert "IT IS MISSING in istio-system/istio-canary: the gateway will refuse every request. Run:" in notes
    assert "helm -n istio-system upgrade istiod istio/istiod --version YOUR_ISTIO" in notes
    assert ("because Helm replaces lists: other tollgate" in notes) == ("other" in text)


def test_the_notes_say_that_there_is_no_mesh_configuration(x: Callable[..., str]) -> None:
    assert "There is no ConfigMap istio-system/istio in this cluster" in x()


def test_who_may_not_read_the_mesh_configuration_is_told_what_to_set(server: ApiServer, x: Callable[..., str]) -> None:
    server.kubectl("create", "rolebinding", "dev", "-n", "notes", "--clusterrole=cluster-admin", "--user=dev")
    said = r'if you may not read it: --set mesh.configMap=\)".*configmaps "istio" is forbidden'
    with pytest.raises(AssertionError, match=said):
        x("--kube-as-user", "dev")
    assert "kubectl -n istio-system get configmap istio" in x("--kube-as-user", "dev", "--set", "mesh.configMap=")


def _configure_mesh(server: ApiServer, name: str, text: str) -> None:
    metadata = {"name": name, "namespace": "istio-system"}
    server.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"mesh": text}}])
