"""`tollgate tokens ...`: what the console does, from a shell beside the stores. Who runs it is an administrator.

Exit code 0: done; 1: not there, or not possible as things are; 2: bad input, nothing was done; 3: Postgres holds it,
Redis does not yet; 4: Postgres did not confirm it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click
from msgspec import structs

from ext_authz.errors import ConfigError, TollgateError, Unavailable
from ext_authz.report import Duration, OneOf, by_option, format_option, issuer_option, operator, plain, print_rows, utc
from ext_authz.revocation.commands import NOT_EVERYWHERE, NOT_KNOWN

if TYPE_CHECKING:
    from ext_authz.tokens.keys import SigningKeys
    from ext_authz.tokens.model import Actor, Grant, Issued
    from ext_authz.tokens.service import TokenService

R = TypeVar("R")

COLUMNS = (
    *("id", "name", "issuer", "subject", "username", "group", "state", "expires_at", "last_used_at", "last_used_from"),
    *("scopes", "models", "roles", "lifetime", "version", "created_at", "created_by", "revoked_at", "revoked_by"),
)
TABLE = ("id", "name", "owner", "state", "expires_at", "last_used_at", "last_used_from")
ACCOUNT = ("subject", "group", "issuer", "enabled")
KEY = ("kid", "state", "created_at", "signs_from", "retired_at", "withdrawn_at")
_OPTIONS = {"service": "--service", "scopes": "--scope", "models": "--model", "roles": "--role", "version": "--version"}
"""By the field of a refusal, where the option has another name."""

_secret_format = click.option(
    "--format", "form", type=click.Choice(["token", "json"]), default="token", show_default=True,
    help="The token alone, or with what is known of it.",
)  # fmt: skip
_lifetime = "How long the token lives, at most as long as the policy has it."


@click.group()
def tokens() -> None:
    """Make, list, renew and revoke API tokens; their signing keys.

    ID is that of a grant: it stays the same when its token is renewed. Exit code 3: Postgres holds it, Redis does not
    yet. 4: Postgres did not confirm it.
    """


@tokens.command()
@click.argument("name")
@click.option("--service", required=True, metavar="SUBJECT", help="Service account that is to own it: service:NAME.")
@click.option("--lifetime", type=Duration(), default="30d", show_default=True, help=_lifetime)
@click.option("--scope", "scopes", multiple=True, help="Scope; repeat for more.")
@click.option("--model", "models", multiple=True, help="Only this model, or pattern of the policy; repeat for more.")
@click.option("--role", "roles", multiple=True, help="Only this role of the account; repeat for more.")
@click.option("--idempotency-key", default="", help="Repeated with the same key, it prints the same token, for 24 h.")
@issuer_option
@by_option
@_secret_format
def create(form: str, issuer: str, by: str, idempotency_key: str, **what: Any) -> None:  # noqa: ANN401 - click's
    """Make a token for a service account, and print it.

    It is shown only now. People make their own in the console.
    """
    from ext_authz.tokens.model import NewGrant

    wanted = NewGrant(**{**what, "models": what["models"] or None, "roles": what["roles"] or None})
    actor = _actor(by, issuer)
    _print_secret(_with(lambda service, _: service.create(actor, wanted, idempotency_key=idempotency_key)), form)


@tokens.command("list")
@click.option("--search", "text", default="", help="Part of a name or user name, a subject, or an id.")
@click.option("--state", type=OneOf(("active", "expired", "revoked")), metavar="STATE", help="Only in it.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Maximum number.")
@click.option("--after", "cursor", metavar="CURSOR", default="", help="Continue where the last list ended.")
@format_option
def list_tokens(state: str | None, form: str, **which: Any) -> None:  # noqa: ANN401 - click's
    """List grants, the newest first."""
    from ext_authz.tokens.model import State

    only = State(state) if state else None
    page = _with(lambda service, _: service.list(_actor(), everybody=True, state=only, **which))
    print_rows(COLUMNS, [_row(grant) for grant in page.grants], form, table=TABLE)
    if page.cursor:
        click.echo(f"there are more: --after {page.cursor}", err=True)


@tokens.command()
@click.argument("grant", metavar="ID", type=click.UUID)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Output format.")  # fmt: skip
def show(grant: UUID, form: str) -> None:
    """Show one grant and its tokens, the latest first.

    The tokens themselves are kept nowhere.
    """
    from ext_authz.tokens.model import Token

    found = _with(lambda service, _: service.get(_actor(), grant))
    if form == "json":
        click.echo(json.dumps(_document(found), indent=2, default=plain))
        return
    row = _row(found)
    for name in COLUMNS:
        click.echo(f"{name.replace('_', ' ')}: {_text(row[name])}")
    click.echo()
    print_rows(Token.__struct_fields__, [structs.asdict(token) for token in found.tokens], form)


@tokens.command()
@click.argument("grant", metavar="ID", type=click.UUID)
@click.option("--grace", type=Duration(), help="How long the old token lives on, at most 7d. Default: it ends now.")
@click.option("--lifetime", type=Duration(), help="Another lifetime than before.")
@click.option("--version", type=int, metavar="NUMBER", help="Only if it is still at this version.")
@click.option("--idempotency-key", default="", help="Repeated with the same key, it prints the same token, for 24 h.")
@by_option
@_secret_format
def renew(grant: UUID, grace: timedelta | None, by: str, form: str, **how: Any) -> None:  # noqa: ANN401 - click's
    """Print a new token of a service account's grant.

    The grant keeps its id, quota and usage.
    """
    until = grace or timedelta()
    _print_secret(_with(lambda service, _: service.renew(_actor(by), grant, grace=until, **how)), form)


@tokens.command()
@click.argument("grant", metavar="ID", type=click.UUID)
@click.option("--reason", default="", help="Reason, kept in the history.")
@click.option("--version", type=int, metavar="NUMBER", help="Only if it is still at this version.")
@by_option
def revoke(grant: UUID, reason: str, version: int | None, by: str) -> None:
    """Revoke a grant with all its tokens, on every replica."""
    gone = _with(lambda service, _: service.revoke(_actor(by), grant, version=version, reason=reason))
    click.echo(f"{gone.id}: revoked, in force on every replica")


@tokens.command("revoke-all")
@click.argument("subject")
@click.option("--reason", default="", help="Reason, kept in the history.")
@issuer_option
@by_option
def revoke_all(subject: str, reason: str, issuer: str, by: str) -> None:
    """Revoke every grant of an owner.

    SUBJECT is the sub of a user, or service:NAME.
    """
    number = _with(lambda service, _: service.revoke_all(_actor(by, issuer), issuer, subject, reason=reason))
    click.echo(f"{number} revoked, in force on every replica")


@tokens.command()
@format_option
def accounts(form: str) -> None:
    """List service accounts."""
    found = _with(lambda service, _: service.service_accounts(_actor()))
    print_rows(ACCOUNT, [structs.asdict(owner) for owner in found], form)


@tokens.command("create-account")
@click.argument("name")
@click.option("--group", required=True, metavar="PATH", help="Its members manage it, in the console.")
@click.option("--role", "roles", multiple=True, help="Role that its tokens can have; repeat for more.")
@issuer_option
@by_option
def create_account(name: str, group: str, roles: tuple[str, ...], issuer: str, by: str) -> None:
    """Make a service account, and print its subject."""
    actor = _actor(by, issuer)
    click.echo(_with(lambda service, _: service.create_service_account(actor, name, group, roles)).subject)


@tokens.group()
def keys() -> None:
    """Manage the keys that sign API tokens."""


@keys.command("list")
@format_option
def list_keys(form: str) -> None:
    """List all keys, the latest first."""
    from ext_authz.tokens.signing_key import state_of

    now, found = datetime.now().astimezone(), _with(lambda _, held: held.all())
    print_rows(KEY, [{**structs.asdict(key), "state": state_of(key, now)} for key in found], form)


@keys.command()
@click.option("--at-once", is_flag=True, help="Sign with it now, also where a verifier has not fetched it yet.")
@by_option
def rotate(by: str, *, at_once: bool) -> None:
    """Make a new key, which signs in ten minutes.

    Tokens of the old one live on.
    """
    click.echo(_with(lambda _, held: held.rotate(_actor(by), at_once=at_once)))


@keys.command()
@click.argument("kid")
@by_option
def withdraw(kid: str, by: str) -> None:
    """End every token that a key has signed.

    For a key that is no longer secret. A new one signs from now on.
    """
    _with(lambda _, held: held.withdraw(_actor(by), kid))
    click.echo(f"{kid}: withdrawn; verifiers refuse its tokens when they next fetch the keys, authorizers in a minute")


@keys.command()
@by_option
def reencrypt(by: str) -> None:
    """Encrypt them with the first of TOLLGATE_CONSOLE_KEYS.

    Then the others can be taken out of that setting.
    """
    click.echo(f"{_with(lambda _, held: held.reencrypt(_actor(by)))} encrypted again")


def _actor(by: str = "", issuer: str = "") -> Actor:
    from ext_authz.tokens.model import Actor

    return Actor(via="cli", name=by or operator(), issuer=issuer, administrator=True)


def _with(work: Callable[[TokenService, SigningKeys], Awaitable[R]]) -> R:
    """Over the stores of the settings."""
    import asyncio

    from ext_authz.tokens.beside import beside_stores
    from ext_authz.tokens.model import NotDone, Why

    async def done() -> R:
        async with beside_stores() as (service, signing):
            return await work(service, signing)

    try:
        return asyncio.run(done())
    except NotDone as refused:
        option = f"{_OPTIONS.get(refused.field, refused.field)}: " if refused.field else ""
        kind = ConfigError if refused.why in (Why.INVALID, Why.TOO_WIDE) else TollgateError
        raise kind(f"{option}{refused.detail}") from None
    except Unavailable as outage:
        click.echo(f"{outage.dependency}: {outage.detail}", err=True)
        sys.exit(NOT_EVERYWHERE if outage.dependency == "redis" else NOT_KNOWN)


def _print_secret(issued: Issued, form: str) -> None:
    """The token on standard output, and nothing else there."""
    if form == "json":
        document = {"token": issued.token, "grant": _document(issued.grant)}
        click.echo(json.dumps(document, indent=2, default=plain))
        return
    click.echo(f"{issued.grant.id}: {issued.grant.name}, until {utc(issued.grant.expires_at)}", err=True)
    click.echo(issued.token)


def _document(grant: Grant) -> dict[str, object]:
    row = _row(grant)
    return {**{name: row[name] for name in COLUMNS}, "tokens": [structs.asdict(token) for token in grant.tokens]}


def _row(grant: Grant) -> dict[str, Any]:
    """The columns of COLUMNS, and `owner` for tables."""
    row = {**structs.asdict(grant), **structs.asdict(grant.owner), "id": str(grant.id), "state": grant.state.value}
    lifetime, owner = int(grant.lifetime.total_seconds()), grant.owner.username or grant.owner.subject
    return {**row, "lifetime": lifetime, "owner": owner}


def _text(value: object) -> str:
    """For people: what there is none of, and what is left open."""
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return "-" if value in (None, "") else str(plain(value))
