"""Rules and dashboards: every metric of ours exists, every alert has what a person at night needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from ext_authz.ledger.metrics import USAGE_WORKER
from ext_authz.poller import metrics as _poller  # noqa: F401 - whose metrics the rules name

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "k8s/chart/files"
RULES = [
    rule
    for file in sorted((FILES / "rules").glob("*.yaml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DASHBOARDS = {file.stem: json.loads(file.read_text()) for file in sorted((FILES / "dashboards").glob("*.json"))}
TARGETS = [
    (f"{name}: {panel['title']}", target)
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()


def exported() -> dict[str, set[str]]:
    """Names as a scrape has them, and their labels."""
    found: dict[str, set[str]] = {
        "tollgate_policy_info": {"role", "hash"},
        "tollgate_model_labels_total": {"model", "version", "variant", "label"},  # of Triton
        "tollgate_model_label_drift": {"model", "version"},
        "tollgate_model_start_time_seconds": {"model", "version"},
    }
    for registry in (REGISTRY, USAGE_WORKER):
        for metric in registry._collector_to_names:
            labels = set(getattr(metric, "_labelnames", ()))
            suffixes = ("_bucket", "_sum", "_count") if getattr(metric, "_type", "") == "histogram" else ("", "_total")
            for suffix in suffixes:
                found[f"{getattr(metric, '_name', '')}{suffix}"] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


@pytest.mark.parametrize("expression", [rule["expr"] for rule in RULES] + [target["expr"] for _, target in TARGETS])
def test_metrics_and_labels_exist(expression: str) -> None:
    known, recorded = exported(), {rule["record"] for rule in RULES if "record" in rule}
    for name, selector in re.findall(r"\b(tollgate_\w+)(?:\{([^}]*)\})?", expression):
        assert name in known
        assert set(re.findall(r"(\w+)[=!]", selector)) <= known[name] | {"namespace", "job"}, name
    assert set(re.findall(r"\btollgate:[\w:]+", expression)) <= recorded


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_wait_and_have_a_severity_and_a_section_of_the_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"\d+m", rule["for"])
    of_release = {"namespace": "", "job": ""} if name == "TollgateRefusedUnread" else {}
    assert rule["labels"] in ({"severity": "critical", **of_release}, {"severity": "warning", **of_release})
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert rule["annotations"]["summary"]
    assert f"\n## {name}\n" in RUNBOOK


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    dashboard: dict[str, Any] = DASHBOARDS[name]
    panels = dashboard["panels"]
    assert dashboard["uid"] == f"tollgate-{name}"
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
