"""The kustomize forms of k8s/, which say what the chart says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.k8s.generated import K8S, OVERLAYS, generated, values, written
from tests.k8s.programs import Object, objects, template
from tests.mesh.world.network import run

DIRECTORIES = {"base": K8S / "base", **{name: K8S / "overlays" / name for name in OVERLAYS}}
_OF_ITS_OWN = {"base": {"Namespace"}, "prod": {"Namespace"}, "local": {"Namespace", "Secret"}}
_STORES = {"postgres", "valkey"}


def test_what_is_written_from_the_chart_is_fresh() -> None:
    files = generated()
    assert written() == files.keys(), "run make gen-k8s"
    assert {path: path.read_text() for path in files} == files, "run make gen-k8s"


@pytest.mark.parametrize("name", DIRECTORIES)
def test_it_has_what_the_chart_has(name: str) -> None:
    chart = template(*(() if name == "base" else ("--values", values(name))))
    built = [item for item in _build(DIRECTORIES[name]) if item["kind"] not in _OF_ITS_OWN[name]]
    assert _by_identity(built) == _by_identity(item for item in chart if item["kind"] != "Pod")


def test_every_secret_of_the_local_cluster_is_made() -> None:
    items = _build(DIRECTORIES["local"])
    secrets = {item["metadata"]["name"]: item["data"].keys() for item in items if item["kind"] == "Secret"}
    for reference in _references(items):
        assert reference["key"] in secrets[reference["name"]]


def _build(directory: Path) -> list[Object]:
    return objects(run("kubectl", "kustomize", directory))


def _by_identity(items: Iterable[Object]) -> dict[tuple[str, str], Object]:
    found = {(item["kind"], item["metadata"]["name"]): item for item in items}
    return {key: item for key, item in found.items() if key[1] not in _STORES}


def _references(value: object) -> list[Object]:
    if isinstance(value, list):
        return [found for each in value for found in _references(each)]
    if isinstance(value, dict):
        own = [value["secretKeyRef"]] if "secretKeyRef" in value else []
        return own + _references(list(value.values()))
    return []
