"""`tollgate bill mine`: one's own bill, over the REST interface and with one's own token; no store is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click

from ext_authz.command_line import StandardInput, bare
from ext_authz.errors import ConfigError, escaped
from ext_authz.report import print_rows

if TYPE_CHECKING:
    import httpx

_PATH = "/tollgate/api/v1/billing/accounts"
_SHOWN = ("line", "kind", "name", "per", "tier", "period", "quantity", "unit_price", "amount")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECONDS = 30.0


@click.command()
@click.argument("account", required=False)
@click.option("--url", required=True, metavar="URL", help="Where the models are: https://models.example.com.")
@click.option("--jwt", "token", required=True, type=StandardInput(), metavar="-",
              help="Read a token from standard input; it is never printed.")  # fmt: skip
@click.option("--of", "which", default="current", metavar="BILL", help="Number of an invoice, or a day of the period.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "focus", "pdf"]), default="table",
              show_default=True, help="What to write.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def mine(account: str | None, url: str, token: str, which: str, form: str, out: Path | None) -> None:
    """Show a bill that you may read.

    ACCOUNT may be left out if there is one.
    """
    import httpx

    _ensure_safe(url)
    headers = {"authorization": f"Bearer {bare(token)}"}
    try:
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_SECONDS) as http:
            bill = f"{_PATH}/{quote(account or _only(http), safe='')}/bills/{quote(which, safe='')}"
            if form == "table":
                _print(json.loads(_got(http, bill)))
                return
            content = _got(http, f"{bill}/export?format={form}")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as failure:
        raise ConfigError(f"--url: no answer from {escaped(url)}: {type(failure).__name__}") from None
    if out is None:
        sys.stdout.buffer.write(content)
    else:
        out.write_bytes(content)


def _ensure_safe(url: str) -> None:
    """A token goes there."""
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise ConfigError("--url: write https://host, since a token is sent there (http only on loopback)")


def _only(http: httpx.Client) -> str:
    names = [str(each["account"]) for each in json.loads(_got(http, _PATH))["accounts"]]
    if len(names) != 1:
        raise ConfigError(
            f"write one of {', '.join(names)}" if names else "there is no account whose bills you may read"
        )
    return names[0]


def _got(http: httpx.Client, path: str) -> bytes:
    """Raises ConfigError with what the answer says."""
    answer = http.get(path)
    if answer.is_success:
        return answer.content
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the answer is {answer.status_code}: is this where the models are?"
    raise ConfigError(escaped(detail))


def _print(bill: dict[str, Any]) -> None:
    state = f"invoice {bill['number']}" if bill["number"] else "draft"
    click.echo(escaped(f"{state}: {bill['title']} ({bill['account']}), {bill['start']} to {bill['end']}") + "\n")
    print_rows(_SHOWN, bill["lines"], "table")
    click.echo(f"\ntotal: {escaped(bill['total'])} {escaped(bill['currency'])}")
