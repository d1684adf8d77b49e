"""`tollgate console`: builds every part once, in start order, and serves until SIGTERM.

One HTTP port for pages, REST interface, OAuth endpoints and signals, all below `/tollgate/`; one gRPC port.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack

import uvicorn
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ext_authz.clock import Clock, SystemClock
from ext_authz.console.pages import Pages
from ext_authz.console_settings import ConsoleSettings
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import HttpFetch
from ext_authz.observability.listeners import serve_metrics
from ext_authz.policy.issuers import OwnTokens
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.known import KnownRevocations
from ext_authz.revocation.operations import opened
from ext_authz.revocation.store import RevocationStore
from ext_authz.settlement.model import SettleRequest
from ext_authz.settlement.redis import RedisSettlement
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.service import TokenService

PREFIX = "/tollgate"
"""Of every path that is served here."""
_POSTGRES = 5.0
"""Longest wait for Postgres, in seconds."""
_REDIS = 2.0
"""Longest wait for the counters of limits, in seconds."""
_TOKENS = 1000
"""Verified tokens that are kept."""


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
    own = own_tokens(policy)
    clock = SystemClock()
    async with AsyncExitStack() as parts:
        pool = Pool(settings.database_url.get_secret_value(), timeout=_POSTGRES)
        await pool.open()
        parts.push_async_callback(pool.close)
        operations = await parts.enter_async_context(opened(settings, policy.issuers))
        keys = SigningKeys(pool, Cipher(settings.console_keys.get_secret_value()), clock)
        service = TokenService(policy, pool, keys, operations, clock)
        authenticator = await _authenticator(settings, policy, clock, parts)
        revocations = RevocationStore(settings.database_url, _POSTGRES)
        await revocations.start()
        parts.push_async_callback(revocations.stop)
        pages = Pages(
            settings,
            policy,
            own,
            pool=pool,
            service=service,
            authenticator=authenticator,
            revocations=revocations,
            settlement=await _counters(settings, revocations, clock, parts),
            clock=clock,
        )
        parts.push_async_callback(pages.provider.close)
        if settings.console_metrics_port:
            serve_metrics(settings.console_host, settings.console_metrics_port, REGISTRY, dict, settings.accepted_names)
        routes = [Route(f"{PREFIX}/healthz", _alive), *pages.routes()]
        await _serve(Starlette(routes=routes, exception_handlers=pages.errors), settings, stop)


async def _authenticator(
    settings: ConsoleSettings, policy: Policy, clock: Clock, parts: AsyncExitStack
) -> TokenAuthenticator:
    """Of the tokens that people sign in with."""
    fetch = HttpFetch(settings.jwks_timeout, settings.jwks_ca_file)
    parts.push_async_callback(fetch.aclose)
    authenticator = TokenAuthenticator(policy.issuers, fetch=fetch, clock=clock, cache_size=_TOKENS)
    await authenticator.start()
    parts.push_async_callback(authenticator.stop)
    return authenticator


async def _counters(
    settings: ConsoleSettings, revocations: RevocationStore, clock: Clock, parts: AsyncExitStack
) -> RedisSettlement:
    """Read only, to say what is left of a person's limits: nothing is settled here."""

    async def revoked(requests: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        return await revocations.revoked([(request.revocation, request.issued_at) for request in requests])

    counters = RedisSettlement(
        settings.redis_url.get_secret_value(),
        timeout=_REDIS,
        ledger_max=1,
        revoked_in_postgres=revoked,
        known=KnownRevocations(clock, poll=_POSTGRES),
        clock=clock,
        shards=settings.redis_shards,
    )
    await counters.start()
    parts.push_async_callback(counters.stop)
    return counters


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
