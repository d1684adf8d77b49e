"""The metrics of the HorizontalPodAutoscalers: what prometheus-adapter asks of a Prometheus, from a real scrape."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.k8s.plain_root import Image
from tests.k8s.programs import ROOT, Object, template
from tests.k8s.running import check, infer, running_authorizer, running_triton
from tests.mesh.world.network import wait_until
from tests.services import free_port

_RULES: list[Object] = yaml.safe_load((ROOT / "k8s" / "examples" / "prometheus-adapter.yaml").read_text())["rules"][
    "custom"
]
_POD = {"namespace": "tollgate", "pod": "a"}


def test_each_metric_that_is_scaled_by_has_a_rule() -> None:
    items = template("--set", "authorizer.autoscaling.enabled=true,triton.autoscaling.enabled=true")
    scaled = [item for item in items if item["kind"] == "HorizontalPodAutoscaler"]
    metrics = {each["pods"]["metric"]["name"] for item in scaled for each in item["spec"]["metrics"]}
    assert metrics == {rule["name"]["as"] for rule in _RULES}


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus (Debian: prometheus)")
def test_each_rule_has_a_value_for_a_pod(
    tollgate: Image, triton: Image, database: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        running_authorizer(tollgate, database, redis_url, tmp_path) as authorizer,
        running_triton(triton, tmp_path / "triton.log") as models,
        _prometheus(tmp_path, authorizer.admin, models.metrics) as url,
    ):
        wait_until(
            "queue times are known, if there are no calls", lambda: _values(url)["triton_queue_microseconds"] == 0
        )

        def counted() -> bool:
            check(authorizer)
            assert infer(models).is_success
            return all(value > 0 for value in _values(url).values())

        wait_until("each metric grows with calls", counted)


def _values(url: str) -> Mapping[str, float]:
    """By the name of the metric: what the adapter serves for the pod."""
    found = {}
    for rule in _RULES:
        series = re.fullmatch(r"(\w+)\{(.*)\}", rule["seriesQuery"])
        assert series
        assert _query(url, rule["seriesQuery"]), f"{rule['seriesQuery']} finds no series"
        query = rule["metricsQuery"].replace("<<.Series>>", series[1])
        query = query.replace("<<.LabelMatchers>>", 'namespace="tollgate",pod=~"a|b"').replace("<<.GroupBy>>", "pod")
        answers = _query(url, query)
        assert [answer["metric"] for answer in answers] == [{"pod": "a"}]
        found[rule["name"]["as"]] = float(answers[0]["value"][1])
    return found


def _query(url: str, query: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}).raise_for_status().json()
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@contextmanager
def _prometheus(directory: Path, *ports: int) -> Iterator[str]:
    """It scrapes these as the ServiceMonitor has it scrape a pod, but every second."""
    targets = [{"targets": [f"127.0.0.1:{port}" for port in ports], "labels": _POD}]
    jobs = [{"job_name": "tollgate", "scrape_interval": "1s", "static_configs": targets}]
    (directory / "prometheus.yml").write_text(json.dumps({"scrape_configs": jobs}))
    address = f"127.0.0.1:{free_port()}"
    places = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
    process = subprocess.Popen(["prometheus", *places, f"--web.listen-address={address}", "--log.level=warn"])
    try:
        wait_until("Prometheus listens", lambda: _is_ready(f"http://{address}/-/ready"))
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
