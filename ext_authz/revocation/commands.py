"""`tollgate revoke ...` and `tollgate revocations ...`.

Exit code 0: in force (or lifted) on every replica; 1: nothing was there to lift, or the decision is unknown; 2: bad
input, nothing was done; 3: Postgres holds it, Redis does not yet; 4: Postgres did not confirm it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from ext_authz.command_line import StandardInput
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.report import Duration, Time, by_option, format_option, issuer_option, operator, print_rows, short
from ext_authz.revocation import printed
from ext_authz.revocation.entry import CLAIMS, Kind, Origin, Target

if TYPE_CHECKING:
    from ext_authz.policy.issuers import Issuer
    from ext_authz.policy.model import Policy
    from ext_authz.revocation.operations import Operations, Receipt, Revoked
    from ext_authz.revocation.target import Wanted

C = TypeVar("C", bound=Callable[..., Any])
R = TypeVar("R")

NOTHING_THERE, NOT_EVERYWHERE, NOT_KNOWN = 1, 3, 4

_USUAL = timedelta(days=30)
_EXPIRES_IN = (
    "How long it stays in force: at least as long as an affected token can live. Default: 30d, or as long as API "
    "tokens live if that is longer."
)
_LONGEST_REASON = 1000
_COMMAND = Origin("cli")
_KIND = click.Choice(Kind, case_sensitive=False)
_JWT = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")


def _selecting(command: C) -> C:
    """The ways to say what is meant, besides the value itself; who and why."""
    for option in (
        click.option("--reason", default="", callback=short(_LONGEST_REASON), help="Reason, kept in the history."),
        by_option,
        click.option("--jwt", type=StandardInput(), help="Take it from the token on standard input."),
        click.option("--decision", type=click.UUID, metavar="ID", help="Take it from a decision, by its id."),
        click.option("--username", help="User name, looked up in the ledger."),
        issuer_option,
    ):
        command = option(command)
    return command


def _wanted(kind: Kind, metavar: str, selection: Mapping[str, Any]) -> Wanted:
    """From the options; exactly one of the ways is accepted."""
    from ext_authz.revocation.target import Wanted, read_token

    value, jwt, decision, username = (selection[name] for name in ("value", "jwt", "decision", "username"))
    ways = {metavar: value, "--jwt -": jwt, "--decision ID": decision, "--username NAME": username}
    given = [way for way, what in ways.items() if what is not None]
    if kind is not Kind.USER:
        del ways["--username NAME"]
    if len(given) != 1 or given[0] not in ways:
        raise ConfigError(f"name what to revoke by exactly one of {', '.join(ways)}")
    if username == "":
        raise ConfigError("--username: is empty: write the name of a user")
    if value is not None and _JWT.search(value):
        raise ConfigError(
            f"this is a token, not its {CLAIMS[kind]}: pipe it into --jwt -, where no other user can read it"
        )
    return Wanted(
        kind=kind,
        value=value or "",
        username=username or "",
        issuer=selection["issuer"],
        force=selection["force"],
        named=None if jwt is None else read_token(jwt),
        decision=decision,
    )


@click.group()
def revoke() -> None:
    """Revoke a token, or all of a session, user, client or issuer.

    VALUE is the claim itself. Exit code 0: in force on every replica. 2: bad input, nothing was done. 3: Postgres holds
    it, Redis does not yet. 4: Postgres did not confirm it.
    """


def _revoke_command(kind: Kind, metavar: str, text: str) -> click.Command:
    @click.command(kind.label, help=text)
    @click.argument("value", metavar=f"[{metavar}]", required=False)
    @_selecting
    @click.option("--force", is_flag=True, help="Accept an issuer that the policy does not have.")
    @click.option("--expires-in", type=Duration(), help=_EXPIRES_IN)
    def command(expires_in: timedelta | None, by: str, reason: str, **selection: Any) -> None:  # noqa: ANN401 - click's
        from ext_authz.revocation.target import doubt

        what = _wanted(kind, metavar, selection)
        policy = _policy(force=what.force)
        issuers = _issuers(policy)
        lifetime = expires_in or max(_USUAL, timedelta(seconds=policy.longest_life if policy else 0))

        async def work(operations: Operations) -> Revoked:
            target = await operations.target(what)
            if selection["jwt"] is not None:
                click.echo(printed.believed(await doubt(selection["jwt"], issuers)), err=True)
            return await operations.revoke(
                target, actor=by or operator(), reason=reason, lifetime=lifetime, origin=_COMMAND
            )

        result = _writing(work, issuers)
        _print(printed.revoked(result, datetime.now(UTC)))
        _print((f"warning: {line}" for line in printed.warnings(result)), err=True)
        sys.exit(_status(result.receipt))

    return command


for _each in (
    (Kind.TOKEN, "JTI", "Revoke one token."),
    (Kind.SESSION, "SID", "Revoke every token of a session."),
    (Kind.USER, "SUB", "Revoke every token of a user that was issued so far."),
    (Kind.CLIENT, "AZP", "Revoke every token of a client that was issued so far."),
    (Kind.ISSUER, "NAME", "Revoke every token of an issuer that was issued so far."),
):
    revoke.add_command(_revoke_command(*_each))


@click.group()
def revocations() -> None:
    """List revocations, their history, and lift them."""


@revocations.command("list")
@click.option("--kind", type=_KIND, help="Only this kind.")
@click.option("--issuer", metavar="NAME", default="", help="Only of this issuer.")
@click.option("--user", default="", help="Only of this user, by sub or name.")
@click.option("--since", type=Time(), metavar="TIME", help="Only since then: 24h, 2026-11-01.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@click.option("--after", metavar="ID", default="", help="Continue after this id.")
@format_option
def list_revocations(user: str, limit: int, form: str, **which: Any) -> None:  # noqa: ANN401 - click's
    """List what is in force, the newest first."""
    from ext_authz.revocation.store import Filter

    found = _with(lambda operations: operations.listed(Filter(**which, limit=limit + 1), user))
    print_rows(printed.ENTRY, [printed.entry_row(entry) for entry in found[:limit]], form, table=printed.ENTRY_TABLE)
    if len(found) > limit:
        click.echo(f"there are more: --after {found[limit - 1].id}", err=True)


@revocations.command("history")
@click.argument("value", required=False)
@click.option("--kind", type=_KIND, help="Only this kind.")
@click.option("--issuer", metavar="NAME", default="", help="Only of this issuer.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number, latest first."
)
@format_option
def history(value: str | None, kind: Kind | None, issuer: str, limit: int, form: str) -> None:
    """Print every change to revocations, or to those of VALUE.

    VALUE of an issuer is its name.
    """
    from ext_authz.revocation.store import Change

    changes = _with(lambda operations: operations.history(value, kind, issuer, limit))
    rows = [msgspec.structs.asdict(change) for change in changes]
    print_rows(Change.__struct_fields__, rows, form, table=printed.CHANGE_TABLE)


@revocations.command("lift")
@click.argument("kind", type=_KIND)
@click.argument("value", required=False)
@_selecting
def lift_revocation(kind: Kind, by: str, reason: str, **selection: Any) -> None:  # noqa: ANN401 - click's
    """Accept again what was revoked by mistake.

    Exit code 1: nothing of the kind is in force; the others as of revoke.
    """
    if kind is Kind.ISSUER:
        selection["value"] = selection["value"] or selection["issuer"] or None
    what = _wanted(kind, "VALUE", {**selection, "force": True})

    async def work(operations: Operations) -> tuple[Target, Receipt | None]:
        target = await operations.target(what)
        return target, await operations.lift(target, actor=by or operator(), reason=reason, origin=_COMMAND)

    target, receipt = _writing(work, _issuers(_policy(force=False)))
    _print(printed.lifted(target, receipt))
    sys.exit(_status(receipt) if receipt else NOTHING_THERE)


def _status(receipt: Receipt) -> int:
    if receipt.everywhere:
        return 0
    return NOT_EVERYWHERE if receipt.postgres else NOT_KNOWN


def _print(lines: Iterable[str], *, err: bool = False) -> None:
    for line in lines:
        click.echo(line, err=err)


def _writing(work: Callable[[Operations], Awaitable[R]], issuers: tuple[Issuer, ...]) -> R:
    """Postgres may be down before anything could be written: the exit code is the same."""
    try:
        return _with(work, issuers)
    except Unavailable as outage:
        click.echo(f"nothing was done: {outage.dependency} does not answer: {outage.detail}", err=True)
        sys.exit(NOT_KNOWN)


def _with(work: Callable[[Operations], Awaitable[R]], issuers: tuple[Issuer, ...] = ()) -> R:
    import asyncio

    from ext_authz.revocation.operations import opened
    from ext_authz.settings import StoreSettings, load_settings

    async def done() -> R:
        async with opened(load_settings(StoreSettings), issuers) as operations:
            return await work(operations)

    return asyncio.run(done())


def _issuers(policy: Policy | None) -> tuple[Issuer, ...]:
    return policy.issuers if policy else ()


def _policy(*, force: bool) -> Policy | None:
    """The policy, if there is one at hand; with --force a broken one is ignored."""
    from ext_authz.environment import policy_variables
    from ext_authz.policy.load import load_policy
    from ext_authz.settings import PolicySettings, load_settings

    try:
        path = load_settings(PolicySettings).policy
        return load_policy(path, policy_variables()) if path else None
    except ConfigError:
        if force:
            return None
        raise
