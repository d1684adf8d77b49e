"""`python -m tests.k8s.generated` writes what kustomize needs of the chart: k8s/base, and what overlays add to it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.k8s.programs import CHART, HELM, ROOT, VERSION
from tests.mesh.world.network import run

K8S = ROOT / "k8s"
OVERLAYS = ("local", "prod")
_HEAD = "# Written from k8s/chart by `make gen-k8s`: change it there.\n"


def values(overlay: str) -> Path:
    """With these the chart has what the overlay has."""
    return K8S / "examples" / f"values-{overlay}.yaml"


def generated() -> dict[Path, str]:
    """Each file and its text."""
    base = _render()
    names = ["namespace.yaml", *sorted(base)]
    index = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "tollgate"}
    files = {K8S / "base" / name: _HEAD + text for name, text in base.items()}
    files[K8S / "base" / "kustomization.yaml"] = _HEAD + yaml.safe_dump({**index, "resources": names}, sort_keys=False)
    for overlay in OVERLAYS:
        # Dashboards are read from the chart's folder as they are.
        added = _render("--values", values(overlay), "--set", "monitoring.dashboards=false")
        files |= {K8S / "overlays" / overlay / name: _HEAD + added[name] for name in added.keys() - base.keys()}
    return files


def written() -> set[Path]:
    """The files that are there now and were written so."""
    return {path for path in K8S.glob("**/*.yaml") if path.read_text().startswith(_HEAD)}


def _render(*options: str | Path) -> dict[str, str]:
    """Text by file name, one object each, without the pod of `helm test`."""
    command = ("template", "tollgate", CHART, "--namespace", "tollgate", "--kube-version", VERSION)
    texts: dict[str, str] = {}
    for text in run(HELM, *command, *options).removeprefix("---\n").split("\n---\n"):
        item = yaml.safe_load(text)
        if item and item["kind"] != "Pod":
            name = f"{item['kind'].lower()}-{item['metadata']['name']}.yaml"
            texts[name] = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("# Source:"))
    return texts


if __name__ == "__main__":
    files = generated()
    for left in written() - files.keys():
        left.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
