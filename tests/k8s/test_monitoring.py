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


PROMTOOL = pytest.mark.skipif(not shutil.which("promtool"), reason="needs Prometheus (Debian: prometheus)")


def promtool(directory: Path, **test: Any) -> None:  # noqa: ANN401 - JSON
    """A test of the rules of two releases, blue and green."""
    files = []
    for release in ("blue", "green"):
        for number, spec in enumerate(specs(release=release)):
            files.append(directory / f"{release}-{number}.json")
            files[-1].write_text(json.dumps(spec))
    tests = directory / "tests.json"
    text = {"rule_files": [file.name for file in files], "tests": [{"interval": "1m", **test}]}
    tests.write_text(json.dumps(text))
    done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
def test_of_two_releases_the_one_that_is_down_is_named(tmp_path: Path) -> None:
    def fires(alert: str, severity: str, summary: str, **labels: str) -> dict[str, Any]:
        where = {"severity": severity, "namespace": "ns-green", **labels}
        notes = {"summary": summary, "runbook_url": f"docs/runbook.md#{alert.lower()}"}
        return {"eval_time": "10m", "alertname": alert, "exp_alerts": [{"exp_labels": where, "exp_annotations": notes}]}

    blue = 'namespace="ns-blue", job="blue'
    series = [
        {"series": f'tollgate_policy_info{{role="policy", {blue}"}}', "values": "1+0x30"},
        {"series": f'tollgate_ledger_lag_seconds{{{blue}-usage-worker"}}', "values": "1+0x30"},
    ]
    expected = [
        fires("TollgateDown", "critical", "no authorizer is scraped", role="policy", job="green"),
        fires("TollgateUsageWorkerDown", "warning", "no usage worker is scraped", job="green-usage-worker"),
    ]
    promtool(tmp_path, input_series=series, alert_rule_test=expected)


@PROMTOOL
@pytest.mark.parametrize(
    "cluster", ["outbound|8000|{variant}|{release}-triton.ns-{release}.", "outbound|8000||{release}-triton-{variant}."]
)
def test_variants_of_the_same_name_of_two_releases_are_two(cluster: str, tmp_path: Path) -> None:
    series, verdicts, distances = [], [], []
    for release, failing, other in (("blue", 20, 0), ("green", 0, 40)):
        where = f'namespace="ns-{release}", job="{release}'
        for variant, fails, label in (("stable", 0, 0), ("canary", failing, other)):
            name = cluster.format(release=release, variant=variant) + "svc.cluster.local"
            grows = {
                f'tollgate_model_checks_total{{{where}", model="m", variant="{variant}"}}': 100,
                f'envoy_cluster_upstream_rq_completed{{cluster_name="{name}"}}': 100,
                f'envoy_cluster_upstream_rq{{cluster_name="{name}", response_code_class="5xx"}}': fails,
                f'tollgate_model_labels_total{{{where}-triton", model="m", variant="{variant}", label="yes"}}': label,
                f'tollgate_model_labels_total{{{where}-triton", model="m", variant="{variant}", label="no"}}': 50,
            }
            series += [{"series": name, "values": f"0+{step}x60"} for name, step in grows.items()]
            labels = f'{where}", model="m", variant="{variant}"'
            verdict = 0 if release == "green" else -1 if fails else 1
            verdicts.append({"labels": f"tollgate:variant_verdict{{{labels}}}", "value": verdict})
            distances.append({"labels": f"{{{labels}}}", "value": 0.444 if release == "green" else 0})
    distance = "round(tollgate:variant_label_distance:increase1h, 0.001)"
    expected = [
        {"expr": expr, "eval_time": "60m", "exp_samples": samples}
        for expr, samples in (("tollgate:variant_verdict", verdicts), (distance, distances))
    ]
    promtool(tmp_path, input_series=series, promql_expr_test=expected)


@PROMTOOL
def test_of_two_releases_envoy_holds_back_the_checks_of_one(tmp_path: Path) -> None:
    name = "envoy_cluster_upstream_rq_pending_overflow"
    series = [{"series": f'{name}{{cluster_name="outbound|9000||green.ns-green.svc.local"}}', "values": "0+5x30"}]
    notes = {"summary": "Envoy sends no more checks, because too many are waiting for an answer"}
    raised = {
        "exp_labels": {"severity": "warning", "namespace": "ns-green", "job": "green"},
        "exp_annotations": {**notes, "runbook_url": "docs/runbook.md#tollgaterefusedunread"},
    }
    alert = {"eval_time": "10m", "alertname": "TollgateRefusedUnread", "exp_alerts": [raised]}
    promtool(tmp_path, input_series=series, alert_rule_test=[alert])
