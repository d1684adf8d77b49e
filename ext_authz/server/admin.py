"""/metrics, /livez, /readyz and /policy, in the supervisor: they answer even when no worker does.

A client that may read metrics may not read which callers were refused, or reload the policy: /policy is served
over a Unix socket, which the file system keeps for one user. An address proves nothing: behind a sidecar every caller
comes from this very machine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

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
from ext_authz.server.generations import Outcome
from ext_authz.server.sources import POLICIES, Role


class State(Protocol):
    """What the admin listener asks the supervisor."""

    def live(self) -> bool: ...

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether checks should come here, and the same with its reasons."""
        ...


class Policies(Protocol):
    """What it asks about the policy in force and its candidate."""

    def status(self) -> dict[str, object]: ...

    def candidate(self) -> dict[str, object]:
        """The differences."""
        ...

    async def reload(self) -> Mapping[Role, Outcome] | None:
        """None: not now."""
        ...

    def info(self) -> Mapping[tuple[str, str], int]:
        """How many workers hold a policy, by role and hash."""
        ...


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


def public(state: State, policies: Policies, names: Collection[str] = ()) -> Starlette:
    """What anybody may know who can reach the admin listener. `names`: besides its address, how it may be called."""

    def livez(_: Request) -> Response:
        return JSONResponse({"live": state.live()}, 200 if state.live() else 503)

    def readyz(_: Request) -> Response:
        ready, why = state.readiness()
        return JSONResponse(why, 200 if ready else 503)

    async def metrics(_: Request) -> Response:  # in the event loop: the files of dead workers are merged there too
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(_PolicyInfo(policies))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def elsewhere(_: Request) -> Response:
        what = "the policy is served on the Unix socket TOLLGATE_ADMIN_SOCKET only: use tollgate policy status"
        return _problem(404, "elsewhere", "Not found", what)

    routes = [Route("/metrics", metrics), Route("/livez", livez), Route("/readyz", readyz)]
    routes += [Route(path, elsewhere, methods=["GET", "POST"]) for path in ("/policy", "/policy/{rest:path}")]
    return Starlette(routes=routes, middleware=[Middleware(_NoWebPages, names)])


class _NoWebPages:
    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = why_refused(headers, self._names)
        answer: ASGIApp = _problem(403, "refused", "Not permitted", refusal) if refusal else self._app
        await answer(scope, receive, send)


class _PolicyInfo(Collector):
    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def collect(self) -> Iterable[Metric]:
        yield policy_info(self._policies.info())


def private(policies: Policies) -> Starlette:
    """Data about callers, and changes."""

    async def status(_: Request) -> Response:
        return JSONResponse(policies.status())

    async def candidate(_: Request) -> Response:
        return JSONResponse(policies.candidate())

    async def reload(_: Request) -> Response:
        outcomes = await policies.reload()
        if outcomes is None:
            return _problem(503, "not-serving", "Not serving", "the workers are starting or draining")
        said = {role.value: _said(role, outcome) for role, outcome in outcomes.items()}
        faults = {role.value: outcome.faults for role, outcome in outcomes.items() if outcome.faults}
        if not faults:
            return JSONResponse(said)
        first = next(iter(faults.values()))[0]
        return _problem(422, "policy-rejected", "Policy rejected", first, faults=faults, in_force=said)

    return Starlette(
        routes=[
            Route("/policy", status),
            Route("/policy/candidate", candidate),
            Route("/policy/reload", reload, methods=["POST"]),
        ]
    )


def _said(role: Role, outcome: Outcome) -> dict[str, object]:
    digest = {"hash": outcome.hash} if role in POLICIES else {}
    return {**digest, "changed": outcome.changed}


def _problem(status: int, kind: str, title: str, detail: str, **more: object) -> Response:
    """RFC 9457."""
    problem = {"type": f"urn:tollgate:problem:{kind}", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(problem, status, media_type="application/problem+json")
