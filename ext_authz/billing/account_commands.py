"""`tollgate bill accounts ...`."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import click

from ext_authz.billing.running import actor, in_transaction, with_connection
from ext_authz.report import by_option, format_option, period_options, print_rows

if TYPE_CHECKING:
    from ext_authz.db.postgres import Connection

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LONGEST = 255
_AUDITED = {"audit_log": ("INSERT",), "billing_accounts": ("SELECT",)}
_CLOSED = {**_AUDITED, "invoices": ("SELECT",)}


class _Day(click.ParamType[date]):
    """A day of UTC."""

    name = "day"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            day = date.fromisoformat(str(value))
        except ValueError:
            self.fail("write a day such as 2026-12-01, in UTC", param, ctx)
        if not 2000 <= day.year < 9000:
            self.fail("write a day from 2000-01-01 to 8999-12-31", param, ctx)
        return day


class _Words(click.ParamType[str]):
    """Printable, and not empty."""

    name = "text"

    def __init__(self, longest: int = _LONGEST, form: re.Pattern[str] | None = None) -> None:
        self._longest, self._form = longest, form

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not 0 < len(text) <= self._longest or not text.isprintable():
            self.fail(f"write 1 to {self._longest} printable characters", param, ctx)
        if self._form and not self._form.fullmatch(text):
            self.fail("write a lower-case letter, then letters, digits and -, at most 32 in all", param, ctx)
        return text


def _first_of_month() -> date:
    return datetime.now(UTC).date().replace(day=1)


account_argument = click.argument("account", type=_Words(32, _NAME))
_client = click.argument("client", type=_Words())
_iss = click.option("--issuer", required=True, type=_Words(), metavar="URL", help="The issuer (iss) of its tokens.")
_since = click.option("--since", type=_Day(), default=_first_of_month, metavar="DAY",
                      help="From this day on, in UTC. Default: the first of this month.")  # fmt: skip


@click.group()
def accounts() -> None:
    """Who pays for which clients, by which plan."""


@accounts.command()
@account_argument
@click.option("--title", required=True, type=_Words(200), help="As it stands on bills.")
@click.option("--anchor", type=_Day(), default=_first_of_month, metavar="DAY",
              help="First day of the first period, and of each other in its month. Default: the 1st.")  # fmt: skip
@by_option
def create(account: str, title: str, anchor: date, by: str) -> None:
    """Make an account."""
    from ext_authz.billing.accounts import Account
    from ext_authz.billing.accounts import create as created

    made = Account(account, title, anchor)
    needs = {**_AUDITED, "billing_accounts": ("SELECT", "INSERT")}
    in_transaction(needs, lambda connection: created(connection, actor(by), made))
    click.echo(f"{account}: made, periods begin on {anchor}")


@accounts.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@click.option("--after", default="", metavar="NAME", help="Continue after this one.")
@format_option
def list_accounts(limit: int, after: str, form: str) -> None:
    """List accounts by name."""
    from ext_authz.billing.accounts import accounts as found

    rows = with_connection(_AUDITED, lambda connection: found(connection, after=after, limit=limit))
    table = [{"account": each.name, "title": each.title, "anchor": str(each.anchor)} for each in rows]
    print_rows(("account", "title", "anchor"), table, form)


@accounts.command("add-client")
@account_argument
@_client
@_iss
@_since
@by_option
def add_client(account: str, client: str, issuer: str, since: date, by: str) -> None:
    """Let an account pay for a client, from a day on.

    CLIENT is what tokens name in azp or client_id; for API tokens of Tollgate their owner, such as service:NAME.
    Whoever paid for it before does so no more.
    """
    _assign(account, client, issuer, since, by)
    click.echo(f"{account}: pays for {client} from {since} on")


@accounts.command("remove-client")
@_client
@_iss
@_since
@by_option
def remove_client(client: str, issuer: str, since: date, by: str) -> None:
    """Let nobody pay for a client, from a day on."""
    _assign(None, client, issuer, since, by)
    click.echo(f"{client}: nobody pays from {since} on")


def _assign(account: str | None, client: str, issuer: str, since: date, by: str) -> None:
    from ext_authz.billing.accounts import assign

    needs = {**_CLOSED, "billing_clients": ("SELECT", "INSERT", "UPDATE")}
    in_transaction(needs, lambda connection: assign(connection, actor(by), account, issuer, client, since))


@accounts.command()
@account_argument
@click.argument("plan", type=_Words(32, _NAME))
@click.option("--prices", required=True, type=_Words(32, _NAME), help="Name of a published price list.")
@_since
@by_option
def subscribe(account: str, plan: str, prices: str, since: date, by: str) -> None:
    """Let an account pay by a plan.

    In periods that begin on --since or later.
    """
    from ext_authz.billing.accounts import Subscription
    from ext_authz.billing.accounts import subscribe as subscribed
    from ext_authz.billing.published import terms

    wanted = Subscription(since, plan, prices)

    async def work(connection: Connection) -> None:
        await terms(connection, wanted, since)
        await subscribed(connection, actor(by), account, wanted)

    needs = {**_CLOSED, "price_lists": ("SELECT",), "billing_subscriptions": ("SELECT", "INSERT", "UPDATE")}
    in_transaction(needs, work)
    click.echo(f"{account}: pays by {plan} of {prices}, in periods from {since} on")


@accounts.command("add-reader")
@account_argument
@click.argument("subject", type=_Words())
@click.option("--issuer", required=True, type=_Words(32), metavar="NAME", help="Name of the issuer in the policy.")
@by_option
def add_reader(account: str, subject: str, issuer: str, by: str) -> None:
    """Let somebody read the bills of an account.

    SUBJECT is the sub of a user or of a client's service account, or service:NAME.
    """
    _let_read(account, subject, issuer, by, allowed=True)
    click.echo(f"{account}: {subject} may read its bills")


@accounts.command("remove-reader")
@account_argument
@click.argument("subject", type=_Words())
@click.option("--issuer", required=True, type=_Words(32), metavar="NAME", help="Name of the issuer in the policy.")
@by_option
def remove_reader(account: str, subject: str, issuer: str, by: str) -> None:
    """Let somebody read the bills of an account no more."""
    _let_read(account, subject, issuer, by, allowed=False)
    click.echo(f"{account}: {subject} may not read its bills any more")


def _let_read(account: str, subject: str, issuer: str, by: str, *, allowed: bool) -> None:
    from ext_authz.billing.accounts import allow_reader

    needs = {**_AUDITED, "billing_readers": ("SELECT", "INSERT", "DELETE")}
    in_transaction(
        needs, lambda connection: allow_reader(connection, actor(by), account, issuer, subject, allowed=allowed)
    )


@accounts.command()
@period_options(lambda: datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0), "this month")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@format_option
def unassigned(limit: int, form: str, **period: Any) -> None:  # noqa: ANN401 - click's
    """List clients for which no account pays.

    Those with the most calls come first.
    """
    from ext_authz.billing.usage import of_nobody
    from ext_authz.report import ensure_period

    ensure_period(period["since"], period["until"])
    needs = {"billable": ("SELECT",), "billing_clients": ("SELECT",)}
    found = with_connection(needs, lambda connection: of_nobody(connection, **period, limit=limit))
    columns = ("issuer", "client", "requests")
    print_rows(columns, [dict(zip(columns, row, strict=True)) for row in found], form)


@accounts.command()
@click.option("--check", is_flag=True, help="Compare them with those of the policy; exit code 1 if they differ.")
def days(*, check: bool) -> None:
    """Print the billing days of all clients, for the policy.

    Limits with `anchor: billing` count in the periods of the client's account. Write what this prints into a file that
    the policy includes, whenever accounts and their clients have changed.
    """
    import os
    import sys

    from ext_authz.billing.days import NEEDS, differences, of_accounts, of_policy, written
    from ext_authz.errors import ConfigError
    from ext_authz.policy.load import load_policy
    from ext_authz.settings import PolicySettings, load_settings

    path = load_settings(PolicySettings).policy
    if path is None:
        raise ConfigError("TOLLGATE_POLICY: name the policy: it says which issuers there are")
    policy = load_policy(path, os.environ)
    today = datetime.now(UTC).date()
    found = with_connection(NEEDS, lambda connection: of_accounts(connection, policy, today))
    if not check:
        click.echo(written(found))
        return
    differ = differences(found, of_policy(policy) or {})
    click.echo("\n".join(differ) or "good: quotas and bills begin on the same days")
    sys.exit(bool(differ))
