"""The chart as Helm installs it on a real API server."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.k8s.api_server import ApiServer
from tests.k8s.programs import CHART


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
