"""`tollgate policy explain`: what a policy decides on one request, and why, without any store."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
from msgspec import to_builtins
from msgspec.structs import replace

from ext_authz.clock import SystemClock
from ext_authz.command_line import bare
from ext_authz.decision import Request
from ext_authz.edge.request import media_type
from ext_authz.errors import ConfigError, escaped
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.fetch import HttpFetch
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.policytool.callers import unverified_claims, written_claims
from ext_authz.policytool.cases import GRPC
from ext_authz.policytool.explain import Explanation, explanation, lines
from ext_authz.policytool.simulator import SimulatedCheck, Simulator
from ext_authz.settings import TokenSettings, load_settings

_FETCH_SECONDS = 5.0


def request_of(
    method: str,
    path: str,
    *,
    host: str,
    pairs: Sequence[str],
    source: str,
    grpc: bool,
    model: str | None,
    version: str | None,
) -> Request:
    """From options of the command; without a credential."""
    headers = ({"content-type": GRPC} if grpc else {}) | _headers(pairs)
    path, _, query = path.partition("?")
    return Request(
        method=method.upper(),
        host=host,
        path=path,
        query=query,
        content_type=media_type(headers.get("content-type", "")),
        headers=headers,
        source=source,
        models=() if model is None else (model,),
        versions=() if version is None else (version,),
    )


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon:
            raise ConfigError("--header: write name:value")
        if name.strip().lower() == "authorization":
            raise ConfigError("--header: a token goes through --jwt - (standard input), where it is not visible")
        found[name.strip().lower()] = value.strip()
    return found


def print_explanation(
    request: Request, policy: Path, now: datetime, *, claims: str, jwt: str, verify: bool, form: str
) -> None:
    """`tollgate policy explain`: `request` has no credential, which is in `claims` or `jwt`."""
    compiled, bearer, at = load_policy(policy, os.environ), bare(jwt), now.timestamp()
    check = _verified(request, bearer, compiled, at) if verify else _simulated(request, claims, bearer, compiled, at)
    if jwt and not verify:
        click.echo("the token was read UNVERIFIED: its signature was not checked (--verify does)", err=True)
    _print(explanation(asyncio.run(check)), form)


def _print(found: Explanation, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(to_builtins(found), indent=2))
        return
    for line in lines(found):
        click.echo(escaped(line))
    click.echo("no store was used: counters start at zero, and nothing is revoked")


async def _simulated(request: Request, claims: str, token: str, policy: Policy, now: float) -> SimulatedCheck:
    """The caller by claims, by what a token contains, or without a credential."""
    simulator = Simulator(policy, now)
    if token:
        given = unverified_claims(token)
    elif claims:
        given = written_claims(claims, policy.issuers, now)
    else:
        return await simulator.check(request)
    return await simulator.check(replace(request, authorization=(simulator.callers.present(given),)))


async def _verified(request: Request, token: str, policy: Policy, now: float) -> SimulatedCheck:
    """The caller by a token, verified as a worker does."""
    settings = load_settings(TokenSettings)
    fetch = HttpFetch(_FETCH_SECONDS, settings.jwks_ca_file)
    authenticator = TokenAuthenticator(
        policy.issuers,
        fetch=fetch,
        fetch_key=fetch.key,
        clock=SystemClock(),
        cache_size=1,
        max_token=settings.max_token_bytes,
    )
    try:
        simulator = Simulator(policy, now, authenticator)
        return await simulator.check(replace(request, authorization=(f"Bearer {token}",)))
    finally:
        await authenticator.stop()
        await fetch.aclose()
