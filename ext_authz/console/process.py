"""`tollgate console`: serves every subject, one line each, until SIGTERM.

One HTTP port for pages, REST interface, OAuth endpoints and signals, all below `/tollgate/`; one gRPC port. What they
are made of is in `parts.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus

import uvicorn
from msgspec import Struct
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from ext_authz.api import rest_billing, rest_catalogue, rest_check, rest_predictions, rest_revocations, rest_tokens
from ext_authz.api.callers import Callers
from ext_authz.api.failures import unserved
from ext_authz.api.grpc_server import listening
from ext_authz.api.grpc_services import GrpcServices
from ext_authz.api.oauth import OAuth
from ext_authz.api.rest import PREFIX as REST
from ext_authz.api.rest import PROGRAMS, Interfaces, problem, rest
from ext_authz.api.rest_stac import STAC, StacInterface, stac_application
from ext_authz.billing.service import BillingService
from ext_authz.catalogue.stac import Places
from ext_authz.console.pages import Pages
from ext_authz.console.parts import Parts, built
from ext_authz.console_settings import ConsoleSettings
from ext_authz.errors import ConfigError, TollgateError
from ext_authz.observability import log
from ext_authz.observability.listeners import serve_metrics
from ext_authz.phases.flood_guard import FloodGuard
from ext_authz.policy.load import load_policy
from ext_authz.poller.poller import poller_of
from ext_authz.predictions.service import PredictionService
from ext_authz.restarts import restarting
from ext_authz.signals.parts import Signals
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.reminders import Reminders
from ext_authz.tokens.revocations import Revocations
from ext_authz.web.bodies import BoundedBodies, configuration

PREFIX = "/tollgate"
"""Of every path that is served here."""

ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]
Work = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set."""


async def serve(settings: ConsoleSettings) -> None:
    """Until SIGTERM or SIGINT."""
    log.configure(settings.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    policy = load_policy(settings.policy, os.environ)
    async with AsyncExitStack() as stack:
        console = served(await built(settings, policy, stack), stack)
        if settings.console_metrics_port:
            host, port = settings.console_host, settings.console_metrics_port
            serve_metrics(host, port, REGISTRY, console.causes, settings.accepted_names)
        where = f"{settings.console_host}:{settings.console_grpc_port}"
        await stack.enter_async_context(listening(console.grpc, where, settings))
        async with plain_failures(), asyncio.TaskGroup() as tasks:
            for name, work in console.background.items():
                tasks.create_task(restarting(name, partial(work, stop), stop))
            await _serve(console.application, settings, stop)
            stop.set()


@asynccontextmanager
async def plain_failures() -> AsyncGenerator[None]:
    """What ends the process on purpose is raised as itself, so that it is one sentence, with its exit code."""
    try:
        yield
    except BaseExceptionGroup as group:
        meant = group.subgroup(TollgateError)
        if meant is None:
            raise
        raise meant.exceptions[0] from None


class Console(Struct, frozen=True):
    """What is served."""

    application: Starlette
    grpc: GrpcServices
    background: Mapping[str, Work]
    """By name: what runs beside the listeners, in one process of several where that is enough."""
    causes: Callable[[], Mapping[str, str]]
    """By dependency, why something cannot be done now; empty if nothing is wrong."""


def served(parts: Parts, stack: AsyncExitStack) -> Console:
    """Every subject of the console, one line each."""
    callers = _callers(parts)
    revocations = Revocations(parts.operations, parts.policy)
    oauth = OAuth(parts.own, parts.keys, parts.tokens, callers)
    predictions, billing = PredictionService(parts.pool, parts.policy), BillingService(parts.pool, parts.clock)
    interfaces = Interfaces(parts.tokens, revocations, predictions, billing, parts.publishing, parts.using, callers)
    of_tokens = rest_tokens.router, rest_revocations.router
    routers = *of_tokens, rest_predictions.router, rest_billing.router, rest_catalogue.router
    pages = Pages(parts)
    stack.push_async_callback(pages.provider.close)
    stack.push_async_callback(pages.door.close)
    signals = Signals(parts.settings, parts.policy, parts.pool, parts.authenticator, parts.operations, parts.clock)
    background, causes = {"reminders": _reminders(parts).run, "signals": signals.run}, [signals.causes]
    issuer = pages.provider.issuer
    if poller := poller_of(parts.settings, parts.policy, issuer, parts.pool, parts.operations, parts.clock):
        stack.push_async_callback(poller.close)
        background["poller"] = poller.run
        causes.append(poller.causes)
    routes: list[BaseRoute] = [
        Route(f"{PREFIX}/healthz", _alive),
        *oauth.routes,
        *signals.routes,
        Mount(REST, app=rest(interfaces, routers)),
        Mount(PROGRAMS, app=stac_application(_stac(parts, callers, pages), rest_check.router)),
        *pages.routes(),
    ]
    application = Starlette(routes=routes, middleware=[Middleware(BoundedBodies)], exception_handlers=_errors(pages))
    application.router.redirect_slashes = False  # it would redirect to whatever the header Host says, over plain http
    return Console(
        application=application,
        grpc=GrpcServices(parts.tokens, revocations, callers),
        background=background,
        causes=lambda: {name: why for each in causes for name, why in each().items()},
    )


def _errors(pages: Pages) -> dict[int, ExceptionHandler]:
    """What answers requests for what is not there. A path with a line break matches no mount, so it comes here."""

    async def not_found(request: Request, error: Exception) -> Response:
        if request.scope["path"].startswith(f"{PROGRAMS}/"):
            return problem(unserved(HTTPStatus.NOT_FOUND, f"{REST}/openapi.json"))
        return await pages.errors[HTTPStatus.NOT_FOUND](request, error)

    return {**pages.errors, HTTPStatus.NOT_FOUND: not_found}


def _callers(parts: Parts) -> Callers:
    flood, hops = parts.policy.flood, parts.settings.console_trusted_hops
    guard = FloodGuard(flood.rate, flood.window, flood.burst) if flood else None
    return Callers(parts.own, parts.authenticator, parts.revocations, hops, guard=guard, clock=parts.clock)


def _stac(parts: Parts, callers: Callers, pages: Pages) -> StacInterface:
    cipher = Cipher(parts.settings.console_keys.get_secret_value())
    places = Places(
        f"{pages.site.url}{PROGRAMS.removeprefix(PREFIX)}{STAC}", pages.site.models, f"{pages.site.url}/catalogue"
    )
    return StacInterface(parts.catalogue, callers, cipher, places)


def _reminders(parts: Parts) -> Reminders:
    webhook = parts.settings.console_reminder_url
    url = webhook.get_secret_value() if webhook else ""
    return Reminders(parts.pool, parts.clock, source=parts.own.issuer.issuer, url=url)


async def _serve(application: Starlette, settings: ConsoleSettings, stop: asyncio.Event) -> None:
    """The HTTP listener. Its port is bound before, so that a taken one is one sentence."""
    config = configuration(application, host=settings.console_host, port=settings.console_port)
    try:
        bound = config.bind_socket()
    except SystemExit:
        where = f"{settings.console_host}:{settings.console_port}"
        raise ConfigError(f"TOLLGATE_CONSOLE_PORT: cannot listen on {where}") from None
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


async def _alive(_: Request) -> JSONResponse:
    return JSONResponse({"alive": True})
