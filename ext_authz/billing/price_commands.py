"""`tollgate bill prices ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ext_authz.billing.running import actor, in_transaction, with_connection
from ext_authz.report import by_option, format_option, print_rows

if TYPE_CHECKING:
    from ext_authz.billing.documents import PriceListDocument

_LIST = {"price_lists": ("SELECT",)}
_PUBLISH = {"price_lists": ("SELECT", "INSERT"), "audit_log": ("INSERT",)}
_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))


@click.group()
def prices() -> None:
    """Check, publish and list price lists."""


@prices.command()
@_file
def check(file: Path) -> None:
    """Say what is wrong with a price list, with the place in the file.

    With TOLLGATE_POLICY its plans must be those of the policy. Exit code 2: something is wrong.
    """
    document = _read(file)
    plans = ", ".join(document.plans)
    click.echo(f"{file}: good: {document.name}, from {document.valid_from}, {document.currency}, plans {plans}")


@prices.command()
@_file
@by_option
def publish(file: Path, by: str) -> None:
    """Publish a price list.

    It never changes: another one with the same name and a later day takes its place for periods that begin then.
    """
    from ext_authz.billing.published import publish as published

    document = _read(file)
    new = in_transaction(_PUBLISH, lambda connection: published(connection, actor(by), document))
    click.echo(f"{document.name} from {document.valid_from}: {'published' if new else 'is published already'}")


@prices.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Maximum number.")
@format_option
def list_prices(limit: int, form: str) -> None:
    """List published price lists, the latest of each name first."""
    from ext_authz.billing.published import Published, published

    found = with_connection(_LIST, lambda connection: published(connection, limit))
    rows = [{**each._asdict(), "valid_from": str(each.valid_from)} for each in found]
    print_rows(Published._fields, rows, form)


@prices.command()
def schema() -> None:
    """Print the JSON Schema of price lists, for editors."""
    from ext_authz.billing.prices import prices_schema

    click.echo(json.dumps(prices_schema(), indent=2))


def _read(file: Path) -> PriceListDocument:
    """Prints every fault and ends with 2."""
    from ext_authz.billing.prices import read_prices
    from ext_authz.policy.faults import PolicyFaults, counted, excerpt, rendered

    try:
        return read_prices(file, _plans())
    except PolicyFaults as wrong:
        for fault in wrong.faults:
            click.echo("\n".join((rendered(fault), *excerpt(fault))), err=True)
        click.echo(counted(wrong.faults), err=True)
        sys.exit(2)


def _plans() -> list[str] | None:
    """Those of the policy; None: no policy is set."""
    from ext_authz.environment import policy_variables
    from ext_authz.policy.load import load_policy
    from ext_authz.settings import PolicySettings, load_settings

    path = load_settings(PolicySettings).policy
    return None if path is None else [plan.name for plan in load_policy(path, policy_variables()).plans]
