"""`tollgate policy explain`: what a policy decides on one request, and why, without any store."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from msgspec import to_builtins
from msgspec.structs import replace

from ext_authz.clock import SystemClock
from ext_authz.command_line import STANDARD_INPUT, policy_argument
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
from ext_authz.report import Time
from ext_authz.revocation.target import StandardInput, bare
from ext_authz.settings import TokenSettings, load_settings

_FETCH_SECONDS = 5.0


@click.command()
@click.argument("method")
@click.argument("path")
@policy_argument
@click.option("--host", default="models.example", show_default=True, help="Host of the request.")
@click.option("--header", "-H", "pairs", multiple=True, metavar="NAME:VALUE", help="Header of the request.")
@click.option("--claims", default="", metavar="JSON|@FILE", help="Claims of the caller, or a token's payload.")
@click.option("--jwt", type=StandardInput(), help="Read a token from standard input; it is never printed.")
@click.option("--verify", is_flag=True, help="Verify the token with the keys of its issuer.")
@click.option("--grpc", is_flag=True, help="The caller speaks gRPC.")
@click.option("--model", help="With --grpc: model_name in the message.")
@click.option("--version", help="With --grpc: model_version in the message.")
@click.option("--source", default="192.0.2.1", show_default=True, help="Address of the TCP peer.")
@click.option(
    "--time", type=Time(), metavar="TIME", help="Time of the request: 10:30, 2026-11-01 or ISO 8601. Default: now."
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)
def explain(
    method: str,
    path: str,
    policy: Path,
    host: str,
    pairs: Sequence[str],
    claims: str,
    jwt: str | None,
    model: str | None,
    version: str | None,
    source: str,
    time: datetime | None,
    form: str,
    *,
    verify: bool,
    grpc: bool,
) -> None:
    """Explain what a policy does with a request, phase by phase.

    POLICY is a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.

    No store is used: counters start at zero, and nothing is revoked. Exit code 0, whatever the decision is.
    """
    if (verify and not jwt) or (jwt and claims):
        raise ConfigError("--verify goes with --jwt, and --jwt without --claims")
    if jwt and policy == STANDARD_INPUT:
        raise ConfigError("--jwt and the policy are both -: write the policy into a file")
    headers = ({"content-type": GRPC} if grpc else {}) | _headers(pairs)
    request = _request(method.upper(), path, host, headers, source, model, version)
    compiled, now = (
        load_policy(policy, os.environ),
        (time or datetime.now(UTC)).timestamp(),
    )
    bearer = bare(jwt or "")
    check = _verified(request, bearer, compiled, now) if verify else _simulated(request, claims, bearer, compiled, now)
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


def _request(
    method: str, path: str, host: str, headers: dict[str, str], source: str, model: str | None, version: str | None
) -> Request:
    """Without a credential."""
    path, _, query = path.partition("?")
    return Request(
        method=method,
        host=host,
        path=path,
        query=query,
        content_type=media_type(headers.get("content-type", "")),
        headers=headers,
        source=source,
        models=() if model is None else (model,),
        versions=() if version is None else (version,),
    )


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
        policy.issuers, fetch=fetch, clock=SystemClock(), cache_size=1, max_token=settings.max_token_bytes
    )
    try:
        simulator = Simulator(policy, now, authenticator)
        return await simulator.check(replace(request, authorization=(f"Bearer {token}",)))
    finally:
        await authenticator.stop()
        await fetch.aclose()


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
