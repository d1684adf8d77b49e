"""A whole stack with `--observability`, after some calls: no panel is empty, no rule fails, no alert fires; traces."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.stack.settings import StackSettings
from devstack.stack.stack import Stack, running_stack
from tests.e2e.observability.collector import Collector, collecting
from tests.services import free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]
TRAINED = (ROOT / "model_servers/repository/sentiment/2/SHA256SUMS").exists()
"""Otherwise no model knows what it answered when it was judged."""
DASHBOARDS = sorted((ROOT / "k8s/chart/files/dashboards").glob("*.json"))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
INFER = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus (Debian: prometheus)")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting(port := free_port()) as running, pytest.MonkeyPatch.context() as environ:
        environ.setenv("TOLLGATE_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    demo = StackSettings.model_fields["policy"].default.read_text()
    policy = directory / "policy.yaml"
    # Calls that a limit refuses never reach a model: its variants would have no figures. bob gets the canary.
    half = demo.replace("weights: {stable: 90, canary: 10}", "weights: {stable: 50, canary: 50}")
    policy.write_text(re.sub(r"rate: \d+/minute", "rate: 10000/minute", half))
    with running_stack(directory / "state", policy=policy, observability=True) as running:
        yield running


def prometheus(stack: Stack, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
    url = f"http://127.0.0.1:{stack.settings.prometheus_port}/api/v1/{path}"
    return httpx.get(url, params=parameters).raise_for_status().json()["data"]


def page(stack: Stack, host: str = "127.0.0.1") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stack.settings.status_port}/", headers={"host": host}, timeout=30)


def call(stack: Stack, user: str, times: int, **more: str) -> None:
    form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
    answer = httpx.post(f"{stack.addresses.issuer}/protocol/openid-connect/token", data=form)
    headers = {"authorization": f"Bearer {answer.json()['access_token']}", **more}
    with httpx.Client(base_url=stack.addresses.envoy, headers=headers) as client:
        for _ in range(times):
            client.post("/v2/models/sentiment/infer", json=INFER)


def empty(stack: Stack) -> list[str]:
    """Queries of panels without a number in their answer."""
    panels = [panel for file in DASHBOARDS for panel in json.loads(file.read_bytes())["panels"]]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return [
        query
        for query in queries
        if TRAINED or "tollgate_model_label_drift" not in query
        if not any(series["value"][1] != "NaN" for series in prometheus(stack, "query", query=query)["result"])
    ]


def empty_after_a_call(stack: Stack) -> list[str]:
    """A rate needs a series that grows from one scrape to the next, and some series begin with the first call."""
    for user in ("alice", "bob"):
        call(stack, user, 5)
    return empty(stack)


def test_every_panel_has_data_and_every_rule_works(stack: Stack) -> None:
    wait_for(lambda: all(each["health"] == "up" for each in prometheus(stack, "targets")["activeTargets"]), 30)
    call(stack, "alice", 1)
    call(stack, "bob", 1)
    # These series begin with the first answer: what follows is an increase.
    query = "count(count by (variant) (tollgate_model_labels_total{variant!=''})) == 2"
    wait_for(lambda: prometheus(stack, "query", query=query)["result"], 30)
    for user, times in (("alice", 120), ("bob", 120), ("carol", 2)):
        call(stack, user, times)
    with suppress(AssertionError):
        wait_for(lambda: not empty_after_a_call(stack), 25)
    assert empty(stack) == []
    verdicts = prometheus(stack, "query", query="tollgate:variant_verdict")["result"]
    assert {series["metric"]["variant"] for series in verdicts} == {"stable", "canary"}
    rules = [rule for group in prometheus(stack, "rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert prometheus(stack, "alerts")["alerts"] == []
    labels = prometheus(stack, "query", query='sum by (label) (tollgate_model_labels_total{model="sentiment"})')[
        "result"
    ]
    assert {series["metric"]["label"]: series["value"][1] != "0" for series in labels} == {
        "positive": True, "neutral": False, "negative": False,
    }  # fmt: skip
    shown = page(stack).text
    assert "No alert." in shown
    assert "No data." not in shown
    assert "Share of variant" in shown
    assert "<script" not in shown


def test_a_sampled_call_is_continued_behind_the_rendered_front(stack: Stack, collector: Collector) -> None:
    call(stack, "alice", 1, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    wait_for(lambda: [span.trace_id.hex() for span in collector.named("tollgate.check")] == [TRACE], 15)


def test_the_page_has_no_other_name(stack: Stack) -> None:
    assert page(stack).headers["content-security-policy"].startswith("default-src 'none'")
    assert page(stack, "rebound.example").status_code == 400


def test_an_alert_is_shown_with_its_summary(stack: Stack) -> None:
    stack.child("usage-worker").kill()
    try:
        wait_for(lambda: "TollgateUsageWorkerDown (pending): no usage worker is scraped" in page(stack).text, 30)
    finally:
        stack.child("usage-worker").start()


def test_rules_behave_as_their_tests_say() -> None:
    subprocess.run(["promtool", "test", "rules", Path(__file__).with_name("alerts.yaml")], check=True)


def series(stack: Stack) -> set[str]:
    """All that is exported, without values."""
    state, own = stack.settings, "http://127.0.0.1"
    pages = (
        f"{own}:{state.admin_port}/metrics",
        f"{own}:{state.usage_port}/metrics",
        f"{own}:{state.status_port}/envoy",
        f"{own}:{state.status_port}/triton",
    )
    lines = [line for page in pages for line in httpx.get(page).raise_for_status().text.splitlines()]
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def call_by_many_names(stack: Stack, client: httpx.Client, numbers: range) -> None:
    """One call of each kind for each number."""
    for number in numbers:
        name, host = f"made-up-{number}", {"host": f"host-{number}.example"}
        client.post(f"/v2/models/{name}/infer", json=INFER)
        client.post(f"/v2/models/sentiment/versions/{number}/infer", json=INFER)
        client.get(f"/{name}/{number}", headers={"user-agent": name})
        client.get("/v2/health/ready", headers=host)
        client.request(f"METHOD{number}", "/v2/models/sentiment/infer")
        forged = {"x-model-variant": name, "x-experiment": name, "x-user-id": name}
        asked = {**INFER, "parameters": {"variant": name}}
        client.post(f"/v2/models/sentiment/infer?variant={number}", json=asked, headers=forged)
        client.post("/v2/models/sentiment/infer", json=INFER, headers={"authorization": f"Bearer {name}"})


def settle(stack: Stack, client: httpx.Client) -> None:
    """Counts are published together: until that of a call after all others is seen."""
    counted = checks_of_live(stack)
    assert client.get("/v2/health/live").status_code == 200
    wait_for(lambda: checks_of_live(stack) > counted)


def checks_of_live(stack: Stack) -> float:
    text = httpx.get(f"http://127.0.0.1:{stack.settings.admin_port}/metrics").raise_for_status().text
    return sum(map(float, re.findall(r'^tollgate_checks_total{.*route="live".*} (\S+)$', text, re.MULTILINE)))


def test_what_callers_name_makes_no_series(stack: Stack) -> None:
    form = {"grant_type": "password", "client_id": "web-app", "username": "alice", "password": "alice"}
    token = httpx.post(f"{stack.addresses.issuer}/protocol/openid-connect/token", data=form).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=stack.addresses.envoy, headers=headers, timeout=30) as client:
        call_by_many_names(stack, client, range(20))
        settle(stack, client)
        before = series(stack)
        call_by_many_names(stack, client, range(20, 320))
        settle(stack, client)
    assert series(stack) - before == set()
