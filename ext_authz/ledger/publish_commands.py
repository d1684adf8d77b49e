"""`tollgate ledger`: the ledger leaves this machine, for Kafka or as files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ext_authz.errors import TollgateError
from ext_authz.report import ensure_period, format_option, period_options, print_rows

if TYPE_CHECKING:
    from ext_authz.db.postgres import Connection

R = TypeVar("R")


@click.group()
def ledger() -> None:
    """Publish decisions to Kafka, and export them as Parquet."""


@ledger.command()
def publish() -> None:
    """Publish decisions to Kafka, until SIGTERM.

    From its first start on, decisions wait in Postgres until Kafka has them.
    """
    import asyncio

    from ext_authz.ledger.publish_process import serve
    from ext_authz.observability import log
    from ext_authz.publisher_settings import PublisherSettings
    from ext_authz.settings import load_settings

    settings = load_settings(PublisherSettings)
    log.configure(settings.log_level)
    asyncio.run(serve(settings))


@ledger.command()
@period_options("1d", "a day ago")
def republish(since: datetime, until: datetime) -> None:
    """Publish the decisions of a period, again or at all.

    The same events as before: who reads them leaves out what it has.
    """
    from ext_authz.ledger import outbox

    ensure_period(since, until)

    async def asked(connection: Connection) -> int | None:
        waiting = await outbox.again(connection, since, until)
        return waiting if (await outbox.state(connection)).since else None

    waiting = _run(asked)
    if waiting is None:
        raise TollgateError("nobody publishes: start tollgate ledger publish first")
    click.echo(f"{waiting} decisions wait to be published")


@ledger.command()
@click.confirmation_option("--yes", prompt="Forget what waits, and collect no more?", help="Do not ask.")
def unpublish() -> None:
    """Collect no more decisions for Kafka, and forget what waits.

    Stop every tollgate ledger publish first: it would begin again.
    """
    from ext_authz.ledger import outbox

    click.echo(f"{_run(outbox.end)} changes are forgotten")


@ledger.command("outbox")
@format_option
def show(form: str) -> None:
    """Show since when decisions are published, and what waits."""
    from msgspec import structs

    from ext_authz.ledger.outbox import State, state

    print_rows(State.__struct_fields__, [structs.asdict(_run(state))], form)


@ledger.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "clickhouse", "clickhouse-rollup"]),
    default="json",
    show_default=True,
    help="JSON Schema; tables for ClickHouse; how its sums of a month are made.",
)
def schema(form: str) -> None:
    """Print the schema of events, or SQL for a warehouse."""
    from ext_authz.ledger import clickhouse
    from ext_authz.ledger.decision_event import text

    files = {"clickhouse": clickhouse.TABLES, "clickhouse-rollup": clickhouse.ROLLUP}
    click.echo(files[form].read_text() if form in files else text(), nl=False)


@ledger.command()
@period_options("1d", "a day ago")
@click.option("--to", "directory", type=click.Path(path_type=Path), required=True, metavar="DIRECTORY",
              help="A new directory, or an empty one.")  # fmt: skip
def export(since: datetime, until: datetime, directory: Path) -> None:
    """Write the decisions of a period as Parquet files.

    With what bills count, and what tollgate policy diff --replay needs. Needs the extra parquet.
    """
    import asyncio

    from ext_authz.ledger.export import export as exported
    from ext_authz.settings import DatabaseSettings, load_settings

    ensure_period(since, until)
    url = load_settings(DatabaseSettings).database_url
    written = asyncio.run(exported(url, since, until, directory))
    click.echo(
        f"{written.rows:,} decisions in {len(written.files)} files, {sum(file.bytes for file in written.files):,} bytes"
    )


def _run(work: Callable[[Connection], Awaitable[R]]) -> R:
    import asyncio

    from ext_authz.db.tables import connected
    from ext_authz.ledger.outbox import NEEDS_OF_OPERATORS
    from ext_authz.settings import DatabaseSettings, load_settings

    async def run() -> R:
        async with connected(load_settings(DatabaseSettings).database_url, NEEDS_OF_OPERATORS) as connection:
            return await work(connection)

    return asyncio.run(run())
