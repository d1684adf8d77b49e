"""Serves the page, and Envoy's metrics, which Prometheus cannot read from Envoy's Unix socket."""

from __future__ import annotations

import json
from pathlib import Path

import click
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from devstack.monitoring.page import page

_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-store"}


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", required=True, type=click.IntRange(1, 65535))
@click.option("--prometheus", required=True, metavar="URL")
@click.option("--dashboards", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--envoy", required=True, type=click.Path(path_type=Path), help="Envoy's admin socket.")
def main(host: str, port: int, prometheus: str, dashboards: Path, envoy: Path) -> None:
    """Serve the status page."""
    uvicorn.run(create_app(host, prometheus, dashboards, envoy), host=host, port=port, access_log=False)


def create_app(host: str, prometheus: str, dashboards: Path, envoy: Path) -> Starlette:
    """`/` and `/envoy`, under no other name than its address, so that no web page can read them by DNS rebinding."""
    shown = [json.loads(file.read_bytes()) for file in sorted(dashboards.glob("*.json"))]

    async def show(_request: Request) -> Response:
        async with httpx.AsyncClient(base_url=prometheus, timeout=5) as client:
            return HTMLResponse(await page(client, shown), headers=_HEADERS)

    async def envoy_metrics(_request: Request) -> Response:
        transport = httpx.AsyncHTTPTransport(uds=str(envoy), verify=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=5) as client:
            try:
                stats = await client.get("/stats/prometheus")
            except httpx.HTTPError as failure:
                return PlainTextResponse(f"Envoy does not answer: {failure}\n", 503)
        return PlainTextResponse(stats.text, stats.status_code)

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", host])
    return Starlette(routes=[Route("/", show), Route("/envoy", envoy_metrics)], middleware=[hosts])


if __name__ == "__main__":
    main()
