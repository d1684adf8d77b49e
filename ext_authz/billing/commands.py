"""`tollgate bill ...`: drafts, final invoices and their proof. Who runs it is an administrator.

Exit code 1: `verify` found an invoice that is not good, or there was nothing to finalize.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ext_authz.billing.account_commands import accounts
from ext_authz.billing.budget_commands import budgets
from ext_authz.billing.mine_command import mine
from ext_authz.billing.price_commands import prices
from ext_authz.billing.running import actor, with_connection
from ext_authz.errors import ConfigError
from ext_authz.report import Duration, Time, by_option, format_option, print_rows

if TYPE_CHECKING:
    from ext_authz.billing.model import Invoice, Line
    from ext_authz.billing.verify import Head
    from ext_authz.db.postgres import Connection

INVOICE = ("number", "account", "period", "total", "currency", "finalized_at", "finalized_by", "hash")
_TABLE = INVOICE[:-1]
_SHOWN = ("line", "kind", "name", "per", "tier", "period", "quantity", "unit_price", "amount")
_which = click.argument("which", metavar="WHICH")
_at = click.option(
    "--at", type=Time(), default="0m", metavar="TIME", help="Of an account: the period that contains it."
)


@click.group()
def bill() -> None:
    """Prices, accounts, drafts of bills, and final invoices.

    WHICH is the number of a final invoice, or the name of an account: then it is the bill of the current period, a
    draft as long as it is not final.
    """


bill.add_command(prices)
bill.add_command(accounts)
bill.add_command(budgets)
bill.add_command(mine)


@bill.command()
@click.argument("account")
@_at
@format_option
def draft(account: str, at: datetime, form: str) -> None:
    """Show what an account would pay as the ledger is now."""
    _print(_read(account, at), form)


@bill.command()
@click.argument("number", type=click.IntRange(1, 10**18))
@format_option
def show(number: int, form: str) -> None:
    """Show the lines of a final invoice."""
    from ext_authz.billing.invoices import NEEDS, numbered

    _print(with_connection(NEEDS, lambda connection: numbered(connection, number)), form)


@bill.command("list")
@click.argument("account")
@click.option("--limit", type=click.IntRange(1, 1000), default=24, show_default=True, help="Maximum number.")
@format_option
def list_invoices(account: str, limit: int, form: str) -> None:
    """List the final invoices of an account, the latest first."""
    from ext_authz.billing.accounts import account_named
    from ext_authz.billing.invoices import NEEDS, invoices_of

    async def work(connection: Connection) -> list[Invoice]:
        await account_named(connection, account)
        return await invoices_of(connection, account, limit=limit)

    print_rows(INVOICE, [_row(each) for each in with_connection(NEEDS, work)], form, table=_TABLE)


@bill.command()
@click.argument("account", required=False)
@click.option("--all", "everybody", is_flag=True, help="Of every account, all periods that have ended.")
@click.option("--grace", type=Duration(), default="1h", show_default=True, help="Wait after the end of the period.")
@by_option
def finalize(account: str | None, grace: timedelta, by: str, *, everybody: bool) -> None:
    """Make the oldest bill final that is not, and print its number.

    Exit code 1: its period has not ended for as long as --grace; with --all, an account has no plan or no prices.
    Nothing changes a final invoice: what comes later stands on the next one, as an adjustment.
    """
    from ext_authz.billing.finalizing import NEEDS, finalize_all, finalize_one

    if everybody == (account is not None):
        raise ConfigError("write the name of an account, or --all")
    now, who = datetime.now(UTC), actor(by)
    if account is None:
        failed = with_connection(NEEDS, lambda connection: finalize_all(connection, who, now, grace, _made, _failed))
        sys.exit(1 if failed else 0)
    made = with_connection(NEEDS, lambda connection: finalize_one(connection, who, account, now, grace))
    if made is None:
        click.echo(f"{account}: no period without an invoice has ended", err=True)
        sys.exit(1)
    _made(made)


def _made(invoice: Invoice) -> None:
    bill = invoice.bill
    click.echo(f"{invoice.number}: {bill.account}, {bill.period}, {bill.total:f} {bill.terms.currency}")


def _failed(account: str, why: str) -> None:
    click.echo(f"{account}: {why}", err=True)


@bill.command()
@_which
@_at
@click.option("--format", "form", type=click.Choice(["json", "csv", "focus", "pdf"]), default="json", show_default=True,
              help="The whole invoice; its lines; its lines with the columns of FOCUS; a page.")  # fmt: skip
@click.option(
    "--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="File; default: standard output."
)
def export(which: str, at: datetime, form: str, out: Path | None) -> None:
    """Write an invoice or a draft.

    The same invoice is always the same bytes.
    """
    from ext_authz.billing.formats import FORMATS
    from ext_authz.tokens.model import NotDone

    invoice = _read(which, at)
    try:
        content = next(each for name, each in FORMATS.items() if name == form).write(invoice)
    except NotDone as refused:
        raise ConfigError(refused.detail) from None
    if out is None:
        sys.stdout.buffer.write(content)
    else:
        out.write_bytes(content)


@bill.command()
@_which
@click.argument("line", type=click.IntRange(1))
@_at
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Maximum number.")
@format_option
def explain(which: str, line: int, at: datetime, limit: int, form: str) -> None:
    """List the calls behind a line, by decision id.

    `tollgate explain DECISION` explains each of them. Lines for tiers of one item have the same calls.
    """
    from ext_authz.billing.explain import calls_of, line_of
    from ext_authz.billing.invoices import NEEDS
    from ext_authz.billing.usage import EVENT

    async def work(connection: Connection) -> tuple[Line, list[dict[str, object]]]:
        invoice = await _found(connection, which, at)
        found, last = await calls_of(connection, invoice, line, limit=limit + 1)
        while last is not None and len(found) <= limit:
            more, last = await calls_of(connection, invoice, line, after=last, limit=limit + 1 - len(found))
            found += more
        return line_of(invoice.bill, line), [_plain(call) for call in found]

    of, found = with_connection(NEEDS, work)
    print_rows(EVENT, found[:limit], form)
    if len(found) > limit:
        click.echo("there are more: raise --limit", err=True)
    elif of.per is not None and of.quantity and not found:
        period = f"{of.start:%Y-%m-%d}/{of.end:%Y-%m-%d}"
        click.echo(f"the ledger does not keep the calls of {period} any more", err=True)


class _HeadParameter(click.ParamType["Head"]):
    name = "head"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        from ext_authz.billing.verify import Head

        number, _, digest = str(value).partition(":")
        if not (number.isascii() and number.isdigit() and len(number) < 19 and len(digest) == 64):
            self.fail("write NUMBER:HASH, as tollgate bill verify printed it", param, ctx)
        return Head(int(number), digest.lower())


@bill.command()
@click.option("--head", type=_HeadParameter(), help="What an earlier run printed: it must still be there.")
def verify(head: Head | None) -> None:
    """Verify all final invoices.

    Prints the head of their chain, NUMBER:HASH. Numbers must have no gap, hashes must fit, and every line is computed
    again from the usage and prices that its invoice holds. Exit code 1: one is not good; which and why is on standard
    error.
    """
    from ext_authz.billing.verify import START
    from ext_authz.billing.verify import verify as verified

    found = with_connection({"invoices": ("SELECT",)}, lambda connection: verified(connection, head or START))
    if found.why:
        click.echo(f"invoice {found.broken_at}: {found.why}; good up to {found.head}", err=True)
        sys.exit(1)
    click.echo(str(found.head))


def _read(which: str, at: datetime) -> Invoice:
    from ext_authz.billing.invoices import NEEDS

    return with_connection(NEEDS, lambda connection: _found(connection, which, at))


async def _found(connection: Connection, which: str, at: datetime) -> Invoice:
    from ext_authz.billing.invoices import bill_at, numbered

    if which.isascii() and which.isdigit():
        if len(which) > 18:
            raise ConfigError("there is no invoice with such a number")
        return await numbered(connection, int(which))
    return await bill_at(connection, which, at)


def _print(invoice: Invoice, form: str) -> None:
    """A table has a head and a total."""
    from ext_authz.billing.export import LINE, rows

    bill = invoice.bill
    if form == "table":
        state = f"invoice {invoice.number}" if invoice.number else "draft"
        click.echo(f"{state}: {bill.title} ({bill.account}), {bill.period}, plan {bill.terms.plan}\n")
    print_rows(LINE, rows(invoice), form, table=_SHOWN)
    if form == "table":
        click.echo(f"\ntotal: {bill.total:f} {bill.terms.currency}")


def _row(invoice: Invoice) -> dict[str, object]:
    bill = invoice.bill
    period, total = f"{bill.start:%Y-%m-%d}/{bill.end:%Y-%m-%d}", f"{bill.total:f}"
    values = (invoice.number, bill.account, period, total, bill.terms.currency)
    return dict(zip(INVOICE, (*values, invoice.finalized_at, invoice.finalized_by, invoice.hash), strict=True))


def _plain(call: dict[str, object]) -> dict[str, object]:
    return {**call, "decision_id": str(call["decision_id"]), "seconds": str(call["seconds"])}
