"""`tollgate bill mine`: one's own bill, over the REST interface and with one's own token; no store is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ext_authz.errors import ConfigError, escaped
from ext_authz.report import print_rows
from ext_authz.rest_client import REST, answer_of, rest_client, rest_options

if TYPE_CHECKING:
    import httpx

_PATH = f"{REST}/billing/accounts"
_SHOWN = ("line", "kind", "name", "per", "tier", "period", "quantity", "unit_price", "amount")


@click.command()
@click.argument("account", required=False)
@rest_options
@click.option("--of", "which", default="current", metavar="BILL", help="Number of an invoice, or a day of the period.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "focus", "pdf"]), default="table",
              show_default=True, help="What to write.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def mine(account: str | None, url: str, token: str, which: str, form: str, out: Path | None) -> None:
    """Show a bill that you may read.

    ACCOUNT may be left out if there is one.
    """
    with rest_client(url, token) as http:
        bill = f"{_PATH}/{quote(account or _only(http), safe='')}/bills/{quote(which, safe='')}"
        if form == "table":
            _print(json.loads(answer_of(http, bill)))
            return
        content = answer_of(http, f"{bill}/export?format={form}")
    if out is None:
        sys.stdout.buffer.write(content)
    else:
        out.write_bytes(content)


def _only(http: httpx.Client) -> str:
    names = [str(each["account"]) for each in json.loads(answer_of(http, _PATH))["accounts"]]
    if len(names) != 1:
        raise ConfigError(
            f"write one of {', '.join(names)}" if names else "there is no account whose bills you may read"
        )
    return names[0]


def _print(bill: dict[str, Any]) -> None:
    state = f"invoice {bill['number']}" if bill["number"] else "draft"
    click.echo(escaped(f"{state}: {bill['title']} ({bill['account']}), {bill['start']} to {bill['end']}") + "\n")
    print_rows(_SHOWN, bill["lines"], "table")
    click.echo(f"\ntotal: {escaped(bill['total'])} {escaped(bill['currency'])}")
    if budget := bill.get("budget"):
        click.echo(f"{budget['used']} % of the budget of {escaped(budget['amount'])} {escaped(bill['currency'])}")
