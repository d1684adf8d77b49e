"""k8s/examples/ before a real API server that has the definitions of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.k8s.api_server import RESTRICTED, ApiServer
from tests.k8s.programs import ROOT, TOOLS, objects, pods
from tests.mesh.world.network import run

_VALUES = ("values-", "prometheus-adapter")
EXAMPLES = sorted(path for path in (ROOT / "k8s" / "examples").glob("*.yaml") if not path.name.startswith(_VALUES))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_the_example(server: ApiServer, example: Path) -> None:
    items = objects(example.read_text())
    for namespace in {item["metadata"]["namespace"] for item in items}:
        server.create_namespace(namespace, **RESTRICTED)
    taken = server.apply(items + pods(items), "--dry-run=server")
    assert taken.count("serverside-applied") == len(items + pods(items))


def test_istio_takes_what_is_for_it() -> None:
    run(TOOLS / "istioctl", "validate", "-f", ROOT / "k8s" / "examples" / "front-end.yaml")
