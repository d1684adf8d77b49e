"""No file of istio/ and k8s/ is forgotten: each is in what another test of this folder has an API server admit."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.k8s import test_chart, test_examples, test_kustomize, test_renders
from tests.k8s.generated import K8S
from tests.k8s.programs import CHART, HELM, ROOT, VERSION
from tests.mesh.world.network import run

_LAB = K8S / "lab"
_READ_OTHERWISE = {
    K8S / "examples" / "prometheus-adapter.yaml",  # tests/k8s/test_autoscaling.py runs its rules
    *(ROOT / "istio").rglob(
        "istiod/meshconfig-*.yaml"
    ),  # values of Istio's chart, which the mesh proofs give to istiod
}


def test_every_file_is_admitted_by_a_test() -> None:
    istio = {path for directory in test_renders.ISTIO for path in directory.glob("*.yaml")}
    examples = {*test_examples.EXAMPLES, *test_chart.EXAMPLES}
    kustomize = {path for directory in test_kustomize.DIRECTORIES.values() for path in _files(directory)}
    there = {path for directory in (ROOT / "istio", K8S) for path in directory.rglob("*.y*ml")} - {*_LAB.rglob("*")}
    chart = {path for path in there if CHART in path.parents}
    assert there - chart - istio - examples - kustomize == _READ_OTHERWISE


def test_every_object_of_the_lab_is_applied_by_its_playbook() -> None:
    """Which tests/k8s/test_lab.py runs on an API server."""
    tasks = yaml.safe_load((_LAB / "roles" / "finalization" / "tasks" / "main.yaml").read_text())
    applied = [task for task in tasks if task.get("ansible.builtin.include_tasks") == "apply.yaml"]
    names = [name for task in applied for name in task.get("loop") or [task["vars"]["finalization_objects"]]]
    assert sorted(names) == sorted(path.name.removesuffix(".yaml.j2") for path in (_LAB / "objects").iterdir())


def test_every_template_of_the_chart_is_rendered_by_a_test() -> None:
    rendered = {name for options in test_renders.CHARTS.values() for name in _sources(*options)}
    assert rendered == {f"templates/{path.name}" for path in (CHART / "templates").glob("*.yaml")}


def test_every_dashboard_is_one_of_kustomize_too() -> None:
    directory = CHART / "files" / "dashboards"
    index = yaml.safe_load((directory / "kustomization.yaml").read_text())
    named = [(each["name"], each["files"]) for each in index["configMapGenerator"]]
    assert named == [(f"tollgate-dashboard-{path.stem}", [path.name]) for path in sorted(directory.glob("*.json"))]


def _files(directory: Path) -> set[Path]:
    """Of a kustomization, and of those that it is over."""
    index = directory / "kustomization.yaml"
    found = {index}
    for name in yaml.safe_load(index.read_text()).get("resources", []):
        path = (directory / name).resolve()
        found |= _files(path) if path.is_dir() else {path}
    return found


def _sources(*options: str | Path) -> set[str]:
    text = run(HELM, "template", "tollgate", CHART, "--namespace", "tollgate", "--kube-version", VERSION, *options)
    return set(re.findall("(?m)^# Source: tollgate/(.*)$", text))
