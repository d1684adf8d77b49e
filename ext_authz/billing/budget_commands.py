"""`tollgate bill budgets ...`."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import click

from ext_authz.billing.account_commands import account_argument
from ext_authz.billing.running import actor, in_transaction, with_connection
from ext_authz.budget_settings import ADDRESS
from ext_authz.errors import ConfigError
from ext_authz.report import by_option, format_option, print_rows

if TYPE_CHECKING:
    from ext_authz.billing.budgets import Budget

_BUDGET = ("account", "amount", "alerts", "mail", "stops")
_MOST = 10
_LARGEST = Decimal(10) ** 15


class _Amount(click.ParamType[Decimal]):
    """Money, in the currency of the bill."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal(0)
        if not amount.is_finite() or not 0 < amount < _LARGEST or amount.as_tuple().exponent < -4:  # type: ignore[operator]
            self.fail("write an amount above 0 such as 500 or 99.50, without a currency", param, ctx)
        return amount


class _Address(click.ParamType[str]):
    """Of mail."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not ADDRESS.fullmatch(str(value)):
            self.fail("write an address such as billing@acme.example", param, ctx)
        return str(value)


@click.group()
def budgets() -> None:
    """What accounts want to pay at most in a billing period.

    The usage worker looks after them, with TOLLGATE_BUDGETS_EVERY.
    """


@budgets.command("set")
@account_argument
@click.argument("amount", type=_Amount())
@click.option("--alert", "thresholds", type=click.IntRange(1, 1000), multiple=True, default=(50, 80, 100),
              show_default=True, help="Percent of the budget at which to tell; may be repeated.")  # fmt: skip
@click.option("--mail", type=_Address(), multiple=True, help="Address to tell besides the webhook; may be repeated.")
@click.option("--stop/--no-stop", "stops", default=False,
              help="Refuse the calls of the account's clients from 100 % on, if the policy says so.")  # fmt: skip
@by_option
def put(
    account: str, amount: Decimal, thresholds: tuple[int, ...], mail: tuple[str, ...], by: str, *, stops: bool
) -> None:
    """Set the budget of an account.

    AMOUNT is in the currency of its bill, for a billing period.
    """
    from ext_authz.billing.budgets import CHANGING, Budget
    from ext_authz.billing.budgets import put as done

    found = Budget(account, amount, tuple(sorted(set(thresholds))), tuple(dict.fromkeys(mail)), stops)
    if len(found.thresholds) > _MOST or len(found.mail) > _MOST:
        raise ConfigError(f"--alert, --mail: at most {_MOST} of each")
    in_transaction(CHANGING, lambda connection: done(connection, actor(by), found))
    said = ", ".join(f"{each} %" for each in found.thresholds)
    click.echo(f"{account}: {amount} in each period; alerts at {said}; calls then {'stop' if stops else 'go on'}")


@budgets.command()
@account_argument
@by_option
def remove(account: str, by: str) -> None:
    """Let an account have no budget.

    Calls that are refused for it are let through again within seconds.
    """
    from ext_authz.billing.budgets import CHANGING
    from ext_authz.billing.budgets import remove as done

    in_transaction(CHANGING, lambda connection: done(connection, actor(by), account))
    click.echo(f"{account}: has no budget any more")


@budgets.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@click.option("--after", default="", metavar="NAME", help="Continue after this account.")
@format_option
def list_budgets(limit: int, after: str, form: str) -> None:
    """List budgets by account."""
    from ext_authz.billing.budgets import budgets as found

    needs = {"billing_budgets": ("SELECT",)}
    rows = with_connection(needs, lambda connection: found(connection, after=after, limit=limit))
    print_rows(_BUDGET, [_row(each) for each in rows], form)


@budgets.command()
@account_argument
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@format_option
def alerts(account: str, limit: int, form: str) -> None:
    """List the alerts of an account.

    The latest first: who was told of what, and who could not be told, and why.
    """
    from ext_authz.billing.alerts import LISTED, alerts_of

    needs = {"billing_alerts": ("SELECT",)}
    rows = with_connection(needs, lambda connection: alerts_of(connection, account, limit))
    print_rows(LISTED, [row | {name: str(row[name]) for name in ("total", "budget")} for row in rows], form)


def _row(budget: Budget) -> dict[str, object]:
    alerts = [f"{each} %" for each in budget.thresholds]
    named = {"account": budget.account, "amount": str(budget.amount), "stops": budget.stops}
    return named | {"alerts": ", ".join(alerts), "mail": list(budget.mail)}
