"""`tollgate console`: builds every part once, in start order, and serves until SIGTERM.

One HTTP port for pages, REST interface, OAuth endpoints and signals, all below `/tollgate/`; one gRPC port.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import uvicorn
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ext_authz.clock import SystemClock
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError
from ext_authz.observability.listeners import serve_metrics
from ext_authz.policy.issuers import OwnTokens
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.revocation.operations import opened
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.service import TokenService

PREFIX = "/tollgate"
"""Of every path that is served here."""
_POSTGRES = 5.0
"""Longest wait for Postgres, in seconds."""


def own_tokens(policy: Policy) -> OwnTokens:
    """Raises ConfigError where the policy has none."""
    if policy.tokens is None:
        raise ConfigError("the console needs the section tokens: in the policy: it says who may have API tokens")
    return policy.tokens


async def serve(settings: ConsoleSettings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    policy = load_policy(settings.policy, os.environ)
    own_tokens(policy)
    clock = SystemClock()
    async with AsyncExitStack() as parts:
        pool = Pool(settings.database_url.get_secret_value(), timeout=_POSTGRES)
        await pool.open()
        parts.push_async_callback(pool.close)
        operations = await parts.enter_async_context(opened(settings, policy.issuers))
        keys = SigningKeys(pool, Cipher(settings.console_keys.get_secret_value()), clock)
        service = TokenService(policy, pool, keys, operations, clock)  # noqa: F841 - pages and interfaces are to use it
        if settings.console_metrics_port:
            serve_metrics(settings.console_host, settings.console_metrics_port, REGISTRY, dict, settings.accepted_names)
        await _serve(Starlette(routes=[Route(f"{PREFIX}/healthz", _alive)]), settings, stop)


async def _serve(application: Starlette, settings: ConsoleSettings, stop: asyncio.Event) -> None:
    """The HTTP listener. Its port is bound before, so that a taken one is one sentence."""
    config = uvicorn.Config(
        application,
        host=settings.console_host,
        port=settings.console_port,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,  # who the client is follows from console_trusted_hops
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
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
