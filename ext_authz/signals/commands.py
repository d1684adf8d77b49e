"""`tollgate signals ...`: the stream of security events of the issuer that people sign in at.

Exit code 0: connected, or what was asked for is done; 1: the transmitter or Postgres does not answer, or there is no
stream; 2: bad input, nothing was done.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from ext_authz.errors import ConfigError

if TYPE_CHECKING:
    from ext_authz.signals.stream import Streams
    from ext_authz.signals.transmitter import Transmitter

NO_STREAM = 1
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Work = Callable[["Transmitter", "Streams"], Awaitable[int]]


@click.group()
def signals() -> None:
    """Be told by Keycloak what happens to its users."""


def _url(_: click.Context, __: click.Parameter, url: str) -> str:
    parts = urlsplit(url)
    if url and not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise ConfigError(
            "--push: write the URL of /tollgate/signals/events as Keycloak reaches it, with https: it sends a secret"
        )
    return url


@signals.command()
@click.option("--push", metavar="URL", default="", callback=_url, help="Have events sent there. Default: ask for them.")
def connect(push: str) -> None:
    """Create the stream of security events, or use the present one.

    Repeat it after a change of Keycloak's client. The console begins to ask within seconds.
    """

    async def work(transmitter: Transmitter, streams: Streams) -> int:
        from ext_authz.signals import polling

        known = await streams.find()
        stream = await polling.connect(transmitter, known, push)
        await streams.keep(stream)
        same = known is not None and known.id == stream.id
        how = f"sent to {push}" if push else "asked for by the console"
        click.echo(f"{'connected as before' if same else 'connected'}: stream {stream.id}, events are {how}")
        return 0

    _run(work)


@signals.command()
def status() -> None:
    """Show the stream, and whether Keycloak knows it.

    Exit code 1: it is not connected, or Keycloak has another state than enabled.
    """

    async def work(transmitter: Transmitter, streams: Streams) -> int:
        stream = await streams.find()
        if stream is None:
            click.echo("not connected: run tollgate signals connect")
            return NO_STREAM
        there = any(each.id == stream.id for each in await transmitter.streams())
        state = await transmitter.status(stream.id) if there else "gone; the console makes a new one"
        click.echo(f"stream {stream.id} of {stream.issuer}: {state}")
        click.echo(f"events are sent to {stream.push}" if stream.push else "events are asked for by the console")
        return 0 if state == "enabled" else NO_STREAM

    _run(work)


@signals.command()
def disconnect() -> None:
    """Delete the stream: nothing is sent or asked for any more."""

    async def work(transmitter: Transmitter, streams: Streams) -> int:
        stream = await streams.find()
        await streams.keep(None)  # first: the console would make a new one
        for each in await transmitter.streams():
            await transmitter.delete(each.id)
        click.echo(f"disconnected: stream {stream.id}" if stream else "it was not connected")
        return 0

    _run(work)


def _run(work: Work) -> None:
    import asyncio

    async def done() -> int:
        async with _opened() as (transmitter, streams):
            return await work(transmitter, streams)

    sys.exit(asyncio.run(done()))


@asynccontextmanager
async def _opened() -> AsyncGenerator[tuple[Transmitter, Streams]]:
    from ext_authz.console_settings import SignalsSettings
    from ext_authz.db.postgres import Pool
    from ext_authz.environment import policy_variables
    from ext_authz.identity.fetch import http_client
    from ext_authz.policy.load import load_policy
    from ext_authz.settings import load_settings
    from ext_authz.signals.parts import issuer_of
    from ext_authz.signals.stream import Streams
    from ext_authz.signals.transmitter import Transmitter

    settings = load_settings(SignalsSettings)
    if settings.policy is None:
        raise ConfigError("TOLLGATE_POLICY: write where the policy is: it has the issuer")
    issuer = issuer_of(load_policy(settings.policy, policy_variables()), settings.console_issuer)
    http, pool = http_client(5.0, settings.jwks_ca_file), Pool(settings.database_url.get_secret_value(), timeout=5.0)
    await pool.open()
    try:
        secret = settings.console_client_secret.get_secret_value()
        yield Transmitter(issuer, settings.console_client_id, secret, http), Streams(pool, issuer.name)
    finally:
        await pool.close()
        await http.aclose()
