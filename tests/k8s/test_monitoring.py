"""Alerts of the chart: of two releases in one cluster, and read by Prometheus's own test program."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.programs import pods, template

RULES = ("--set", "monitoring.prometheusRule=true")


def test_who_has_no_sidecar_is_read_without_a_certificate_of_the_mesh() -> None:
    found = template("--set", "monitoring.serviceMonitor=true,monitoring.tlsConfig.caFile=/ca.pem")
    monitor = next(item for item in found if item["kind"] == "ServiceMonitor")
    schemes = {endpoint["port"]: endpoint.get("scheme", "http") for endpoint in monitor["spec"]["endpoints"]}
    seen = {
        pod["metadata"]["labels"]["app"]: (pod["metadata"]["labels"]["sidecar.istio.io/inject"], schemes[port["name"]])
        for pod in pods(found)
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
        if port["name"] in schemes
    }
    with_sidecar, without = ("true", "https"), ("false", "http")
    assert seen == {"tollgate": with_sidecar, "tollgate-triton": with_sidecar, "tollgate-usage-worker": without}


def specs(*options: str, release: str) -> list[dict[str, Any]]:
    found = template(*RULES, *options, release=release, namespace=f"ns-{release}")
    return [item["spec"] for item in found if item["kind"] == "PrometheusRule"]


def alerts(*options: str) -> list[dict[str, Any]]:
    groups = [group for spec in specs(*options, release="blue") for group in spec["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_runbook_links_lead_to_where_the_runbook_is() -> None:
    links = [
        rule["annotations"]["runbook_url"] for rule in alerts("--set", "monitoring.runbookUrl=https://wiki/runbook")
    ]
    assert links == [f"https://wiki/runbook#{rule['alert'].lower()}" for rule in alerts()]


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs Prometheus (Debian: prometheus)")
def test_of_two_releases_the_one_that_is_down_is_named(tmp_path: Path) -> None:
    files = []
    for release in ("blue", "green"):
        for number, spec in enumerate(specs(release=release)):
            files.append(tmp_path / f"{release}-{number}.json")
            files[-1].write_text(json.dumps(spec))

    def fires(alert: str, severity: str, summary: str, **labels: str) -> dict[str, Any]:
        where = {"severity": severity, "namespace": "ns-green", **labels}
        notes = {"summary": summary, "runbook_url": f"docs/runbook.md#{alert.lower()}"}
        return {"eval_time": "10m", "alertname": alert, "exp_alerts": [{"exp_labels": where, "exp_annotations": notes}]}

    blue = 'namespace="ns-blue", job="blue'
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f'tollgate_policy_info{{role="policy", {blue}"}}', "values": "1+0x30"},
            {"series": f'tollgate_ledger_lag_seconds{{{blue}-usage-worker"}}', "values": "1+0x30"},
        ],
        "alert_rule_test": [
            fires("TollgateDown", "critical", "no authorizer is scraped", role="policy", job="green"),
            fires("TollgateUsageWorkerDown", "warning", "no usage worker is scraped", job="green-usage-worker"),
        ],
    }
    tests = tmp_path / "tests.json"
    tests.write_text(json.dumps({"rule_files": [file.name for file in files], "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
