"""The chart as objects, by Helm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.mesh.world.network import run

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s" / "chart"
IMAGES = ROOT / "k8s" / "images"
TOOLS = ROOT / ".tools" / "mesh"
HELM = TOOLS / "helm"
VERSION = "1.36.0"
"""Of Kubernetes: helm was built without one."""

Object = dict[str, Any]


def template(*options: str | Path, release: str = "tollgate", namespace: str = "tollgate") -> list[Object]:
    """All objects of the chart, hooks too, each with its namespace."""
    found = objects(
        run(HELM, "template", release, CHART, "--namespace", namespace, "--kube-version", VERSION, *options)
    )
    for item in found:
        item["metadata"].setdefault("namespace", namespace)
    return found


def objects(text: str) -> list[Object]:
    return [item for item in yaml.safe_load_all(text) if item]


def pods(items: list[Object]) -> list[Object]:
    """Each pod, also those that Deployments and Jobs make."""
    found = [item for item in items if item["kind"] == "Pod"]
    for item in items:
        if item["kind"] in ("Deployment", "Job"):
            made = item["spec"]["template"]
            found.append({"apiVersion": "v1", "kind": "Pod", "spec": made["spec"], "metadata": made["metadata"]})
            found[-1]["metadata"] |= {key: item["metadata"][key] for key in ("name", "namespace")}
    return found


def for_any_version(directory: Path) -> Path:
    """The API server was built from its sources, and says that it is version 0.0.0."""
    copy = shutil.copytree(CHART, directory / "chart")
    about = copy / "Chart.yaml"
    about.write_text(re.sub("(?m)^kubeVersion:.*$", "", about.read_text()))
    return copy
