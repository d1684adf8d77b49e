"""What a gateway counts of each variant, read by a real Prometheus with our rules."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ext_authz.render.endpoints import LOOPBACK
from tests.e2e.render.world import World, running_world
from tests.services import free_port, wait_for
from tests.unit.render.policies import CANARY, EVERYDAY, of_kinds

RULES = Path(__file__).parents[3] / "k8s/chart/files/rules/canary.yaml"
NUMBERS = (
    "tollgate:variant_calls:increase1h",
    "tollgate:variant_error_ratio:increase1h",
    "tollgate:variant_duration_seconds_mean:rate1h",
    "tollgate:variant_duration_seconds_p99:rate1h",
)

pytestmark = [
    pytest.mark.mesh,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus (Debian: prometheus)"),
]


@pytest.mark.parametrize("renderer", ["istio", "gateway-api"])
def test_canary_figures_of_a_gateway(renderer: str, tmp_path: Path) -> None:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": CANARY})
    with running_world(renderer, policy, tmp_path) as world:
        bootstrap = json.loads((tmp_path / "gateway" / "etc" / "envoy-rev.json").read_text())
        admin = bootstrap["admin"]["address"]["socket_address"]["port_value"]
        with running_prometheus(tmp_path, admin) as prometheus:

            def found(query: str) -> dict[str, float]:
                answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()["data"]["result"]
                return {series["metric"].get("variant", ""): float(series["value"][1]) for series in answer}

            def grown() -> bool:
                call(world)
                return min(found(NUMBERS[0]).values()) > 0

            call(world)
            wait_for(lambda: set(found(NUMBERS[0])) == {"stable", "canary"}, 30)
            wait_for(grown, 30)
            for number in NUMBERS:
                assert set(found(number)) == {"stable", "canary"}, number
            assert set(found(NUMBERS[1]).values()) == {0}
            overflows = "{__name__=~'envoy_cluster_upstream_rq_.*_overflow', cluster_name=~'outbound.*tollgate.*'}"
            assert found(f"sum({overflows})") == {"": 0}


def call(world: World) -> None:
    """Users of both variants."""
    for number in range(30):
        headers = {"authorization": f"Bearer user-{number}"}
        assert httpx.post(f"{world.url}/v2/models/sentiment/infer", headers=headers, json={}).status_code == 200


@contextmanager
def running_prometheus(directory: Path, target: int) -> Iterator[str]:
    port, file = free_port(), directory / "prometheus.json"
    scraped = {"job_name": "gateway", "metrics_path": "/stats/prometheus"}
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    targets = [{"targets": [f"{LOOPBACK}:{target}"]}]
    configuration = {
        "global": every,
        "rule_files": [str(RULES)],
        "scrape_configs": [scraped | {"static_configs": targets}],
    }
    file.write_text(json.dumps(configuration))
    options = [f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    with subprocess.Popen(["prometheus", *options, f"--web.listen-address={LOOPBACK}:{port}"]) as process:
        try:
            yield f"http://{LOOPBACK}:{port}"
        finally:
            process.terminate()
