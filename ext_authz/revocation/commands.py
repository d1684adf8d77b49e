"""`tollgate revoke ...` and `tollgate revocations ...`.

Exit status 0: both stores hold it; 1: they do not, or nothing was there to lift; 2: bad input.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click

from ext_authz.db.redis import connected
from ext_authz.errors import ConfigError
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Issuer
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Entry, Kind
from ext_authz.revocation.revoker import Receipt, Revoker
from ext_authz.revocation.store import Recorded, RevocationStore
from ext_authz.revocation.unverified import read
from ext_authz.settings import load_store_settings

C = TypeVar("C", bound=Callable[..., Any])
R = TypeVar("R")

PATIENCE = 5.0
"""Seconds an operator waits for each store."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST = timedelta(days=3650)
_KINDS = [kind.name.lower() for kind in Kind]


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        lifetime = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None
        if lifetime is None or lifetime > _LONGEST:
            self.fail("must be a whole number and a unit, like 90s, 15m, 12h or 30d, and at most 3650d", param, ctx)
        return lifetime


def _about(command: C) -> C:
    """The options of every revocation."""
    command = click.option("--reason", default="", help="Why; kept with the row.")(command)
    command = click.option("--actor", default="", help="Who; the Postgres user if left out.")(command)
    lifetime = "How long it is kept: at least as long as a token that it hits can live."
    return click.option("--expires-in", type=_Duration(), default="30d", show_default=True, help=lifetime)(command)


_issuer = click.option("--issuer", metavar="NAME", required=True, help="Name of the issuer in the policy.")


@click.group()
def revoke() -> None:
    """Revoke a token, a session, or all that was issued so far to a user, to a client or by an issuer."""


@revoke.command("token")
@click.argument("jti", required=False)
@click.option(
    "--jwt",
    type=click.File(errors="replace"),
    help="Take iss and jti from the token in this file, - for standard input.",
)
@click.option("--issuer", metavar="NAME", help="Name of the issuer in the policy; --jwt can find it there by iss.")
@_about
def revoke_token(jti: str | None, jwt: TextIO | None, issuer: str | None, **about: Any) -> None:  # noqa: ANN401 - click's
    """Revoke one token, by its jti."""
    if (jti is None) == (jwt is None):
        raise ConfigError("give either a JTI or --jwt")
    if jwt is not None:
        named = read(jwt.read())
        issuer, jti = issuer or _name_of(named.iss), named.jti
        click.echo(f"not verified: the token calls itself {jti!r} of {named.iss!r}", err=True)
    if issuer is None:
        raise ConfigError("--issuer: say the name of the issuer in the policy")
    _revoke(Kind.TOKEN, issuer, jti or "", **about)


@revoke.command("session")
@click.argument("sid")
@_issuer
@_about
def revoke_session(sid: str, issuer: str, **about: Any) -> None:  # noqa: ANN401 - click's
    """Revoke every token of a session, by its sid."""
    _revoke(Kind.SESSION, issuer, sid, **about)


@revoke.command("user")
@click.argument("sub")
@_issuer
@_about
def revoke_user(sub: str, issuer: str, **about: Any) -> None:  # noqa: ANN401 - click's
    """Revoke every token of a user that was issued so far, by its sub."""
    _revoke(Kind.USER, issuer, sub, **about)


@revoke.command("client")
@click.argument("azp")
@_issuer
@_about
def revoke_client(azp: str, issuer: str, **about: Any) -> None:  # noqa: ANN401 - click's
    """Revoke every token of a client that was issued so far, by its azp."""
    _revoke(Kind.CLIENT, issuer, azp, **about)


@revoke.command("issuer")
@click.argument("name")
@_about
def revoke_issuer(name: str, **about: Any) -> None:  # noqa: ANN401 - click's
    """Revoke every token that an issuer has issued so far, by its name in the policy."""
    _revoke(Kind.ISSUER, name, "", **about)


@click.group()
def revocations() -> None:
    """See what is revoked, and lift it."""


@revocations.command("list")
@click.option("--issuer", metavar="NAME", help="Only this issuer.")
def list_revocations(issuer: str | None) -> None:
    """List what is in force, oldest first."""
    for recorded in asyncio.run(_entries(issuer)):
        click.echo(line(recorded))


@revocations.command("lift")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("value", required=False, default="")
@_issuer
@click.option("--actor", default="", help="Who; the Postgres user if left out.")
def lift_revocation(kind: str, value: str, issuer: str, actor: str) -> None:
    """Let through again what was revoked by mistake (no VALUE for an issuer)."""
    receipt = asyncio.run(_with_revoker(lambda to: to.lift(Kind[kind.upper()], issuer, value, actor=actor)))
    if receipt is None:
        raise click.ClickException(f"no such revocation is in force: {kind} {value} of {issuer}")
    _answer(receipt)


def _revoke(kind: Kind, issuer: str, value: str, *, reason: str, actor: str, expires_in: timedelta) -> NoReturn:
    _ensure_known(issuer)
    expires_at = datetime.now(UTC) + expires_in
    entry = Entry(kind=kind, issuer=issuer, value=value, expires_at=expires_at, reason=reason, actor=actor)
    _answer(asyncio.run(_with_revoker(lambda to: to.revoke(entry))))


def _answer(receipt: Receipt) -> NoReturn:
    click.echo(f"{receipt.id}  {receipt.sentence}")
    sys.exit(0 if receipt.everywhere else 1)


def line(recorded: Recorded) -> str:
    """One revocation for people."""
    entry = recorded.entry
    what = " ".join(filter(None, [entry.kind.name.lower(), entry.value, "of", entry.issuer]))
    hits = f"issued until {_time(entry.not_before)}, " if entry.not_before else ""
    why = f": {entry.reason}" if entry.reason else ""
    return f"{_time(recorded.created_at)}  {what}  {hits}kept until {_time(entry.expires_at)}, by {entry.actor}{why}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ensure_known(name: str) -> None:
    """A wrong name would revoke nothing. Without a policy at hand the operator has to know it."""
    names = [issuer.name for issuer in _issuers()]
    if names and name not in names:
        raise ConfigError(f"--issuer: the policy has no issuer {name!r}, only {', '.join(names)}")


def _name_of(iss: str) -> str:
    for issuer in _issuers():
        if issuer.issuer == iss:
            return issuer.name
    raise ConfigError(f"--issuer: say it, there is no policy in TOLLGATE_POLICY with the issuer {iss!r}")


def _issuers() -> tuple[Issuer, ...]:
    path = os.environ.get("TOLLGATE_POLICY")
    return load_policy(Path(path), os.environ).issuers if path else ()


async def _entries(issuer: str | None) -> list[Recorded]:
    async with _store() as store:
        return await store.entries(issuer)


async def _with_revoker(work: Callable[[Revoker], Coroutine[Any, Any, R]]) -> R:
    settings = load_store_settings()
    url, shards = settings.redis_url.get_secret_value(), settings.redis_shards
    async with connected(url, shards=shards, seconds=PATIENCE) as clients, _store() as store:
        return await work(Revoker(store, RevocationCopy(*clients)))


@asynccontextmanager
async def _store() -> AsyncGenerator[RevocationStore]:
    store = RevocationStore(load_store_settings().database_url, PATIENCE)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
