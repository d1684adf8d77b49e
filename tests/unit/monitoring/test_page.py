"""The status page: what it shows, whatever labels and answers hold."""

from __future__ import annotations

import re

import httpx

from devstack.monitoring.page import page

HOSTILE = "<script>alert('&\"')</script>"
ESCAPED = "&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;"
DASHBOARD = {
    "title": f"D {HOSTILE}",
    "panels": [
        {
            "title": f"P {HOSTILE}",
            "fieldConfig": {"defaults": {"unit": "percentunit"}},
            "targets": [{"expr": "up", "legendFormat": "{{job}} {{absent}}"}],
        }
    ],
}
ALERT: dict[str, object] = {
    "labels": {"alertname": f"A {HOSTILE}", "severity": HOSTILE},
    "state": HOSTILE,
    "annotations": {"summary": HOSTILE},
}


def prometheus(series: list[dict[str, object]], alerts: list[dict[str, object]]) -> httpx.AsyncClient:
    def answer(request: httpx.Request) -> httpx.Response:
        data = {"alerts": alerts} if request.url.path == "/api/v1/alerts" else {"result": series}
        return httpx.Response(200, json={"data": data})

    return httpx.AsyncClient(base_url="http://prometheus", transport=httpx.MockTransport(answer))


def series(value: str = "0.25", job: str = "a") -> dict[str, object]:
    return {"metric": {"job": job}, "values": [[1, value], [2, value]]}


async def test_everything_is_escaped() -> None:
    shown = await page(prometheus([series(job=HOSTILE)], [ALERT]), [DASHBOARD])
    assert "<script" not in shown
    assert shown.count(ESCAPED) == 8


async def test_values_have_units_and_missing_labels_are_empty() -> None:
    shown = await page(prometheus([series()], []), [DASHBOARD])
    assert " a <b>25 %</b></li>" in shown
    assert "No alert." in shown


async def test_a_line_is_broken_where_values_are_missing() -> None:
    line: dict[str, object] = {"metric": {"job": "a"}, "values": [[30, "1"], [60, "1"], [600, "1"], [630, "1"]]}
    shown = await page(prometheus([line], []), [DASHBOARD])
    (path,) = re.findall(r' d="([^"]*)"', shown)
    assert re.sub(r"[^ML]", "", path) == "MLLMLL"


async def test_what_is_no_number_is_no_point() -> None:
    shown = await page(prometheus([series("NaN"), series("+Inf")], []), [DASHBOARD])
    assert "No data." in shown


async def test_a_flat_line_at_zero_and_more_lines_than_fit() -> None:
    shown = await page(prometheus([series("0", f"{n}") for n in range(10)], []), [DASHBOARD])
    assert shown.count("<path") == 8
    assert "and 2 more" in shown


async def test_prometheus_that_does_not_answer() -> None:
    def down(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(HOSTILE)

    client = httpx.AsyncClient(base_url="http://prometheus", transport=httpx.MockTransport(down))
    assert f"Prometheus does not answer: {ESCAPED}" in await page(client, [DASHBOARD])
