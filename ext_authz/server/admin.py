"""/metrics, /livez and /readyz, in the supervisor: they answer even when no worker does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class State(Protocol):
    """What the admin listener asks the supervisor."""

    def live(self) -> bool: ...

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether checks should come here, and the same with its reasons."""
        ...


@asynccontextmanager
async def listening(bound: socket.socket, state: State) -> AsyncIterator[None]:
    """Serve on a socket that is already bound, until the block ends."""
    config = uvicorn.Config(
        _application(state), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Uvicorn(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Uvicorn(uvicorn.Server):
    """Signals belong to the supervisor."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _application(state: State) -> Starlette:
    def livez(_: Request) -> Response:
        return JSONResponse({"live": state.live()}, 200 if state.live() else 503)

    def readyz(_: Request) -> Response:
        ready, why = state.readiness()
        return JSONResponse(why, 200 if ready else 503)

    return Starlette(routes=[Route("/metrics", _metrics), Route("/livez", livez), Route("/readyz", readyz)])


def _metrics(_: Request) -> Response:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
