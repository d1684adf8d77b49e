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
_UNITS = {"s": " s", "reqps": "/s", "percentunit": " %"}
_STYLE = """
:root { color-scheme: light dark; --line: #ccc; --plot: #f6f6f6; --dim: #666;
  --c0: #1f6fb4; --c1: #c4341f; --c2: #2b8a2b; --c3: #b86a00; --c4: #8250b5;
  --c5: #8c564b; --c6: #0e8a99; --c7: #6b6b6b }
@media (prefers-color-scheme: dark) { :root { --line: #444; --plot: #222; --dim: #aaa;
  --c0: #6cb2f0; --c1: #ff8a75; --c2: #6fd06f; --c3: #ffb454; --c4: #c5a3f0;
  --c5: #d0a397; --c6: #5fd3e0; --c7: #b5b5b5 } }
body { font: 14px/1.35 system-ui, sans-serif; margin: clamp(8px, 2vw, 24px) }
h1 { font-size: 1.4em; margin: 0 } h2 { font-size: 1.15em; margin: 1.4em 0 .5em }
main { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)) }
figure { margin: 0; padding: 10px; border: 1px solid var(--line); border-radius: 6px; min-width: 0;
  overflow-wrap: anywhere }
figcaption { font-weight: 600; margin-bottom: 4px }
svg { display: block; width: 100%; height: 110px; background: var(--plot) }
path { fill: none; stroke-width: 1.5; stroke-linecap: round; vector-effect: non-scaling-stroke }
ul { margin: 4px 0 0; padding: 0; list-style: none } figure li { display: flex; gap: 6px } li b { margin-left: auto;
  font-weight: 400; white-space: nowrap } .axis { display: flex; justify-content: space-between }
.axis, .none { color: var(--dim); font-size: .85em } .critical { color: var(--c1) } .warning { color: var(--c3) }
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
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
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
    title, unit = panel["title"], panel["fieldConfig"]["defaults"]["unit"]
    drawn = _plot(lines, title, unit, now) if lines else "<p class=none>No data.</p>"
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"


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


def _plot(lines: Sequence[Line], title: str, unit: str, now: float) -> str:
    shown = sorted(lines, key=lambda line: -line.last)[:_MOST_LINES]
    values = [value for line in shown for _, value in line.points]
    low, high = min(0.0, *values), max(0.0, *values) or 1.0
    paths, names = [], []
    for number, line in enumerate(shown):
        color = f"var(--c{number})"
        paths.append(f'<path style="stroke:{color}" d="{_path(line, low, high, now)}"/>')
        mark = f'<span style="color:{color}">&#9632;</span>'
        names.append(f"<li>{mark} {escape(line.name)} <b>{_value(line.last, unit)}</b></li>")
    if rest := len(lines) - len(shown):
        names.append(f"<li class=none>and {rest} more</li>")
    box = f'viewBox="0 -2 {_WIDTH} {_HEIGHT + 4}" preserveAspectRatio="none"'
    return (
        f"<div class=axis><span>{_value(high, unit)}</span></div>"
        f'<svg {box} role="img" aria-label="{escape(title)}">{"".join(paths)}</svg>'
        f"<div class=axis><span>{_value(low, unit)}, an hour ago</span><span>now</span></div><ul>{''.join(names)}</ul>"
    )


def _path(line: Line, low: float, high: float, now: float) -> str:
    """Broken where there are no values."""
    found, before = [], -math.inf
    for at, value in line.points:
        x, y = (at - now + _SECONDS) / _SECONDS * _WIDTH, (high - value) / (high - low) * _HEIGHT
        found.append(f"{'L' if at - before <= 2 * _STEP else f'M{x:.1f},{y:.1f}L'}{x:.1f},{y:.1f}")
        before = at
    return "".join(found)


def _value(value: float, unit: str) -> str:
    if unit == "s" and 0 < value < 1:
        return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"
    return f"{value * 100 if unit == 'percentunit' else value:.4g}{_UNITS.get(unit, '')}"
