"""`tollgate revoke ...` and `tollgate revocations ...`.

Exit code 0: in force (or lifted) on every replica; 1: nothing was there to lift, or nobody knows that decision; 2: bad
input, nothing was done; 3: Postgres holds it, Redis does not yet; 4: Postgres did not confirm it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from ext_authz.errors import ConfigError, Unavailable
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Issuer
from ext_authz.revocation import printed
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.operations import Lifted, Operations, Revoked, opened
from ext_authz.revocation.options import Duration, Since, about, actor, by_what_there_is, ensure_short, wanted
from ext_authz.revocation.revoker import Receipt
from ext_authz.revocation.store import Filter
from ext_authz.settings import load_store_settings

R = TypeVar("R")

NOTHING_THERE, NOT_EVERYWHERE, NOT_KNOWN = 1, 3, 4

_KIND = click.Choice([kind.label for kind in Kind])


@click.group()
def revoke() -> None:
    """Revoke a token, a session, or all that was issued so far to a user, to a client or by an issuer.

    VALUE is the claim itself. Exit code 0: in force on every replica. 2: bad input, nothing was done. 3: Postgres holds
    it, Redis does not yet. 4: Postgres did not confirm it.
    """


def _revoke_command(kind: Kind, metavar: str, text: str) -> click.Command:
    lifetime = "How long it is kept: at least as long as a token that it hits can live."

    @click.command(kind.label, help=text)
    @click.argument("value", metavar=f"[{metavar}]", required=False)
    @by_what_there_is
    @about
    @click.option("--force", is_flag=True, help="Also where nobody knows the issuer.")
    @click.option("--expires-in", type=Duration(), default="30d", show_default=True, help=lifetime)
    def command(expires_in: timedelta, by: str, reason: str, **selection: Any) -> None:  # noqa: ANN401 - click's
        who, what = actor(by), wanted(kind, metavar, **selection)
        ensure_short("--reason", reason)

        async def work(operations: Operations) -> Revoked:
            target = await operations.target(what)
            if selection["jwt"] is not None:
                click.echo(_believed(await operations.doubt(selection["jwt"])), err=True)
            return await operations.revoke(target, actor=who, reason=reason, lifetime=expires_in)

        result = asyncio.run(_writing(work, force=what.force))
        _say(printed.revoked(result, datetime.now(UTC)))
        _warn(printed.warnings(result))
        sys.exit(_status(result.receipt))

    return command


for _each in (
    (Kind.TOKEN, "JTI", "Revoke one token."),
    (Kind.SESSION, "SID", "Revoke every token of a session."),
    (Kind.USER, "SUB", "Revoke every token of a user that was issued so far."),
    (Kind.CLIENT, "AZP", "Revoke every token of a client that was issued so far."),
    (Kind.ISSUER, "NAME", "Revoke every token that an issuer has issued so far, by its name in the policy."),
):
    revoke.add_command(_revoke_command(*_each))


@click.group()
def revocations() -> None:
    """See what is revoked and what became of it, and lift it."""


@revocations.command("list")
@click.option("--kind", type=_KIND, help="Only these.")
@click.option("--issuer", metavar="NAME", default="", help="Only of this issuer.")
@click.option("--user", default="", help="Only of this user, by sub or name.")
@click.option("--since", type=Since(), help="Only from here on: 24h, 2026-11-01.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many.")
@click.option("--after", metavar="ID", default="", help="The next page, after this one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_revocations(
    kind: str | None, issuer: str, user: str, since: datetime | None, limit: int, after: str, *, as_json: bool
) -> None:
    """List what is in force, the newest first."""
    which = Filter(kind=Kind[kind.upper()] if kind else None, issuer=issuer, since=since, after=after, limit=limit + 1)
    found = asyncio.run(_with(lambda operations: operations.listed(which, user)))
    page, more = found[:limit], found[limit - 1].id if len(found) > limit else None
    if as_json:
        _say_json({"revocations": [printed.plain(recorded) for recorded in page], "more": more})
        return
    _say(map(printed.line, page))
    if more:
        click.echo(f"there are more: --after {more}", err=True)


@revocations.command("history")
@click.argument("value", required=False)
@click.option("--kind", type=_KIND, help="Only of these.")
@click.option("--issuer", metavar="NAME", default="", help="Only of this issuer.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, the latest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def history(value: str | None, kind: str | None, issuer: str, limit: int, *, as_json: bool) -> None:
    """Tell every change to the revocations of VALUE (of an issuer its name), or to all of them."""
    of = Kind[kind.upper()] if kind else None
    for past in asyncio.run(_with(lambda operations: operations.history(value, of, issuer, limit))):
        if as_json:
            _say_json(past)
        else:
            click.echo(printed.change(past))


@revocations.command("lift")
@click.argument("kind", type=_KIND)
@click.argument("value", required=False)
@by_what_there_is
@about
def lift_revocation(kind: str, by: str, reason: str, **selection: Any) -> None:  # noqa: ANN401 - click's
    """Let through again what was revoked by mistake.

    Exit code 1: nothing of the kind is in force; the others as of revoke.
    """
    of, who = Kind[kind.upper()], actor(by)
    ensure_short("--reason", reason)
    if of is Kind.ISSUER:
        selection["value"] = selection["value"] or selection["issuer"] or None
    what = wanted(of, "VALUE", **selection, force=True)

    async def work(operations: Operations) -> Lifted:
        return await operations.lift(await operations.target(what), actor=who, reason=reason)

    result = asyncio.run(_writing(work, force=False))
    _say(printed.lifted(result))
    sys.exit(_status(result.receipt) if result.receipt else NOTHING_THERE)


def _believed(doubt: str) -> str:
    if doubt:
        return f"not verified: {doubt}; what the token says of itself is taken"
    return "verified: the token is one of its issuer's"


def _status(receipt: Receipt) -> int:
    if receipt.everywhere:
        return 0
    return NOT_EVERYWHERE if receipt.postgres else NOT_KNOWN


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"warning: {line}", err=True)


def _say_json(what: object) -> None:
    click.echo(msgspec.json.encode(what).decode())


async def _writing(work: Callable[[Operations], Awaitable[R]], *, force: bool) -> R:
    """Postgres may be missing before anything could be written: that is the same to who reads the exit code."""
    try:
        return await _with(work, issuers=_issuers(force=force))
    except Unavailable as outage:
        _nothing_done(outage)


def _nothing_done(outage: Unavailable) -> NoReturn:
    click.echo(f"nothing was done: {outage.dependency} does not answer: {outage.detail}", err=True)
    sys.exit(NOT_KNOWN)


async def _with(work: Callable[[Operations], Awaitable[R]], issuers: tuple[Issuer, ...] = ()) -> R:
    async with opened(load_store_settings(), issuers) as operations:
        return await work(operations)


def _issuers(*, force: bool) -> tuple[Issuer, ...]:
    """Of the policy, if there is one at hand; a broken one stands in nobody's way who says --force."""
    path = os.environ.get("TOLLGATE_POLICY")
    try:
        return load_policy(Path(path), os.environ).issuers if path else ()
    except ConfigError:
        if force:
            return ()
        raise
