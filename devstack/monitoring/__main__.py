"""Serves the page, and the metrics of Envoy and Triton, which Prometheus cannot read from their Unix sockets."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
@click.option("--triton", "tritons", multiple=True, metavar="NAME=PATH", help="Socket of the metrics of one Triton.")
def main(host: str, port: int, prometheus: str, dashboards: Path, envoy: Path, tritons: Sequence[str]) -> None:
    """Serve the status page."""
    scraped = [_metrics_of("/envoy", envoy, "/stats/prometheus")]
    for name, _, socket in (triton.partition("=") for triton in tritons):
        scraped.append(_metrics_of(f"/{name}", Path(socket), "/metrics"))
    uvicorn.run(create_app(host, prometheus, dashboards, scraped), host=host, port=port, access_log=False)


def create_app(host: str, prometheus: str, dashboards: Path, scraped: Sequence[Route]) -> Starlette:
    """Under no other name than its address, so that no web page can read anything here by DNS rebinding."""
    shown = [json.loads(file.read_bytes()) for file in sorted(dashboards.glob("*.json"))]

    async def show(_request: Request) -> Response:
        async with httpx.AsyncClient(base_url=prometheus, timeout=5) as client:
            return HTMLResponse(await page(client, shown), headers=_HEADERS)

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", host])
    return Starlette(routes=[Route("/", show), *scraped], middleware=[hosts])


def _metrics_of(path: str, socket: Path, there: str) -> Route:
    """What the server of a Unix socket exports."""

    async def forward(_request: Request) -> Response:
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://socket", timeout=5) as client:
            try:
                found = await client.get(there)
            except httpx.HTTPError as failure:
                return PlainTextResponse(f"{socket} does not answer: {failure}\n", 503)
        return PlainTextResponse(found.text, found.status_code)

    return Route(path, forward)


if __name__ == "__main__":
    main()
