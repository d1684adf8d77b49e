"""The panels of the dashboards as small plots: HTML and SVG made here, no JavaScript."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Sequence
from html import escape
from typing import Any

import httpx
from msgspec import Struct

_SECONDS, _STEP = 3600, 30
_WIDTH, _HEIGHT = 360, 110
_MOST_LINES = 8
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")
_UNITS = {"s": " s", "reqps": "/s", "percentunit": " %"}
_STYLE = """
body { font: 14px sans-serif; margin: 1.5em; color: #222 } h1 { font-size: 1.3em } h2 { font-size: 1.1em }
main { display: flex; flex-wrap: wrap; gap: 12px }
figure { margin: 0; padding: 8px; border: 1px solid #ccc; width: 360px }
figcaption { font-weight: bold } svg { background: #f7f7f7 } ul { margin: 4px 0 0; padding: 0; list-style: none }
.critical { color: #b00 } .warning { color: #a60 } .none { color: #777 }
"""


class Line(Struct, frozen=True):
    """One series: its name, and its points as seconds since the epoch and value."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        return self.points[-1][1]


async def page(client: httpx.AsyncClient, dashboards: Sequence[dict[str, Any]]) -> str:
    """The whole page; says so where Prometheus does not answer."""
    now = time.time()
    try:
        alerts = _alerts((await _get(client, "/api/v1/alerts"))["alerts"])
        parts = [await _dashboard(client, dashboard, now) for dashboard in dashboards]
    except (httpx.HTTPError, LookupError, ValueError) as failure:
        alerts, parts = f"<p class=critical>Prometheus does not answer: {escape(str(failure) or 'timeout')}</p>", []
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta http-equiv=refresh content=30>"
        f"<title>Tollgate: status</title><style>{_STYLE}</style></head><body>"
        f"<h1>Tollgate: status</h1><p>The last hour, until {at}.</p>{alerts}{''.join(parts)}</body></html>"
    )


async def _get(client: httpx.AsyncClient, path: str, **parameters: object) -> dict[str, Any]:
    answer = await client.get(path, params={name: str(value) for name, value in parameters.items()})
    data: dict[str, Any] = answer.raise_for_status().json()["data"]
    return data


def _alerts(alerts: Sequence[dict[str, Any]]) -> str:
    """Those that fire, or will if it lasts."""
    if not alerts:
        return "<p class=none>No alert.</p>"
    rows = (
        f'<li class="{escape(alert["labels"].get("severity", ""))}">{escape(alert["labels"]["alertname"])} '
        f"({escape(alert['state'])}): {escape(alert['annotations'].get('summary', ''))}</li>"
        for alert in alerts
    )
    return f"<ul>{''.join(rows)}</ul>"


async def _dashboard(client: httpx.AsyncClient, dashboard: dict[str, Any], now: float) -> str:
    figures = await asyncio.gather(*(_panel(client, panel, now) for panel in dashboard["panels"]))
    return f"<h2>{escape(dashboard['title'])}</h2><main>{''.join(figures)}</main>"


async def _panel(client: httpx.AsyncClient, panel: dict[str, Any], now: float) -> str:
    lines = [line for target in panel["targets"] for line in await _lines(client, target, now)]
    drawn = _plot(lines, panel["fieldConfig"]["defaults"]["unit"], now) if lines else "<p class=none>No data.</p>"
    return f"<figure><figcaption>{escape(panel['title'])}</figcaption>{drawn}</figure>"


async def _lines(client: httpx.AsyncClient, target: dict[str, str], now: float) -> list[Line]:
    window = {"start": now - _SECONDS, "end": now, "step": _STEP}
    found = []
    for series in (await _get(client, "/api/v1/query_range", query=target["expr"], **window))["result"]:
        points = [(at, value) for at, text in series["values"] if math.isfinite(value := float(text))]
        if points:
            found.append(Line(_legend(target["legendFormat"], series["metric"]), points))
    return found


def _legend(form: str, labels: dict[str, str]) -> str:
    """As Grafana writes it. Prometheus leaves out a label that is empty."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), form).strip() or "(none)"


def _plot(lines: Sequence[Line], unit: str, now: float) -> str:
    shown = sorted(lines, key=lambda line: -line.last)[:_MOST_LINES]
    values = [value for line in shown for _, value in line.points]
    low, high = min(0.0, *values), max(0.0, *values) or 1.0
    paths, names = [], []
    for color, line in zip(_COLORS, shown, strict=False):
        path = " ".join(
            f"{(at - now + _SECONDS) / _SECONDS * _WIDTH:.1f},{(high - value) / (high - low) * _HEIGHT:.1f}"
            for at, value in line.points
        )
        paths.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        names.append(
            f'<li><span style="color:{color}">&#9632;</span> {escape(line.name)}: {_value(line.last, unit)}</li>'
        )
    if rest := len(lines) - len(shown):
        names.append(f"<li class=none>and {rest} more</li>")
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 -2 {_WIDTH} {_HEIGHT + 4}" role="img">{"".join(paths)}'
        f'<text x="2" y="10" font-size="10" fill="#777">{_value(high, unit)}</text>'
        f"</svg><ul>{''.join(names)}</ul>"
    )


def _value(value: float, unit: str) -> str:
    return f"{value * 100 if unit == 'percentunit' else value:.4g}{_UNITS.get(unit, '')}"
