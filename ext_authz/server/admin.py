"""/metrics, /livez, /readyz and /policy, in the supervisor: they answer even when no worker does.

A client that may read metrics may not read which callers were refused, or reload the policy: /policy is served
over a Unix socket, which the file system keeps for one user. An address proves nothing: behind a sidecar every caller
comes from this very machine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ext_authz.observability.listeners import why_refused
from ext_authz.observability.metrics import policy_info
from ext_authz.server.generations import Generations


@asynccontextmanager
async def listening(bound: socket.socket, application: ASGIApp) -> AsyncIterator[None]:
    """Serve on a socket that is already bound, until the block ends."""
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=2,
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


Health = Callable[[], tuple[bool, dict[str, object]]]
"""Whether it is well, and what to answer."""


def public(live: Health, ready: Health, policies: Generations, names: Collection[str] = ()) -> Starlette:
    """What anybody may know who can reach the admin listener. `names`: besides its address, how it may be called."""

    def health(of: Health) -> Callable[[Request], Response]:
        def answer(_: Request) -> Response:
            well, details = of()
            return JSONResponse(details, 200 if well else 503)

        return answer

    async def metrics(_: Request) -> Response:  # in the event loop: the files of dead workers are merged there too
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(_PolicyInfo(policies))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def elsewhere(_: Request) -> Response:
        what = "the policy is served on the Unix socket TOLLGATE_ADMIN_SOCKET only: use tollgate policy status"
        return _problem(404, "elsewhere", "Not found", what)

    routes = [Route("/metrics", metrics), Route("/livez", health(live)), Route("/readyz", health(ready))]
    routes += [Route(path, elsewhere, methods=["GET", "POST"]) for path in ("/policy", "/policy/{rest:path}")]
    return Starlette(routes=routes, middleware=[Middleware(_without_web_pages, names)])


def _without_web_pages(app: ASGIApp, names: Collection[str]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = why_refused(headers, names)
        await (_problem(403, "refused", "Not permitted", refusal) if refusal else app)(scope, receive, send)

    return answer


class _PolicyInfo(Collector):
    def __init__(self, policies: Generations) -> None:
        self._policies = policies

    def collect(self) -> Iterable[Metric]:
        yield policy_info(self._policies.info())


def private(policies: Generations) -> Starlette:
    """Data about callers, and changes."""

    async def status(_: Request) -> Response:
        return JSONResponse(policies.status())

    async def candidate(_: Request) -> Response:
        return JSONResponse(policies.candidate())

    async def reload(_: Request) -> Response:
        changed = await policies.reload()
        if changed is None:
            return _problem(503, "not-serving", "Not serving", "the workers are starting or draining")
        status = policies.status()
        hashes = {role: {"hash": each["hash"]} for role, each in status.items() if "hash" in each}
        said = {role: {**hashes.get(role, {}), "changed": role in changed} for role in [*status, *changed]}
        faults = {role: each["rejected"] for role, each in status.items() if "rejected" in each}
        if not faults:
            return JSONResponse(said)
        first = next(iter(faults.values()))[0]
        return _problem(422, "policy-rejected", "Policy rejected", first, faults=faults, in_force=said)

    routes = [Route("/policy", status), Route("/policy/candidate", candidate)]
    return Starlette(routes=[*routes, Route("/policy/reload", reload, methods=["POST"])])


def _problem(status: int, kind: str, title: str, detail: str, **more: object) -> Response:
    """RFC 9457."""
    problem = {"type": f"urn:tollgate:problem:{kind}", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(problem, status, media_type="application/problem+json")
