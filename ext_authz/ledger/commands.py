"""`tollgate usage` and `tollgate usage-worker`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from ext_authz.clock import SystemClock
from ext_authz.db import tables
from ext_authz.db.redis import connected
from ext_authz.errors import ConfigError
from ext_authz.ledger.metrics import USAGE_WORKER
from ext_authz.ledger.queries import (
    READS,
    Rejected,
    Usage,
    count_rejects,
    export_events,
    rejects_of,
    usage_by_client,
)
from ext_authz.ledger.worker import UsageWorker
from ext_authz.observability import log
from ext_authz.observability.listeners import serve_metrics
from ext_authz.settings import DatabaseSettings, UsageWorkerSettings, load_settings

C = TypeVar("C", bound=Callable[..., Any])

REDIS_TIMEOUT = 5.0
"""Longer than a read waits for new events."""


def _period(command: C) -> C:
    """Adds the options of every command about a period."""
    command = click.option("--until", metavar="TIME", help="End of the period, exclusive. Default: now.")(command)
    return click.option("--since", metavar="TIME", help="Start of the period. Default: the first of this month.")(
        command
    )


@click.group(invoke_without_command=True)
@_period
@click.option("--client", help="Only this client.")
@click.pass_context
def usage(context: click.Context, since: str | None, until: str | None, client: str | None) -> None:
    """Count the calls of each client.

    TIME is ISO 8601; without an offset it is UTC.
    """
    if context.invoked_subcommand is None:
        used, rejects = asyncio.run(_report(*_times(since, until), client))
        for line in usage_table(used):
            click.echo(line)
        if rejects:
            what = "1 event of this period" if rejects == 1 else f"{rejects} events of this period"
            click.echo(f"{what} could not be read: see tollgate usage rejects", err=True)


@usage.command()
@_period
@click.option("--jsonl", is_flag=True, expose_value=False, help="One JSON object per line; the only output format.")
def export(since: str | None, until: str | None) -> None:
    """Write every decision of the period, with its record."""
    url = load_settings(DatabaseSettings).database_url
    asyncio.run(export_events(url, *_times(since, until), sys.stdout.buffer))


@usage.command()
@_period
def rejects(since: str | None, until: str | None) -> None:
    """List the events that the ledger could not take.

    When they came, from which stream, and why. Their bytes are in usage_rejects.
    """
    for reject in asyncio.run(_rejects(*_times(since, until))):
        click.echo(f"{reject.received_at:%Y-%m-%dT%H:%M:%SZ}  {reject.stream} {reject.entry_id}  {reject.reason}")


@click.command()
@click.option("--name", help="Name in the consumer group; default: TOLLGATE_REPLICA, or the host's name.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Serve /metrics and /readyz on this port, on loopback."
)
def usage_worker(name: str | None, metrics_port: int | None) -> None:
    """Move the ledger from Redis to Postgres, until SIGTERM."""
    settings = load_settings(UsageWorkerSettings)
    log.configure(settings.log_level)
    asyncio.run(_work(settings, name or settings.replica, metrics_port))


def usage_table(rows: list[Usage]) -> list[str]:
    """Aligned columns, and the total."""
    head = ("CLIENT", "MODEL", "ROUTE", "OUTCOME", "COUNT")
    body = [(row.client or "(none)", row.model or "-", row.route or "-", row.outcome, str(row.events)) for row in rows]
    body.append(("total", "", "", "", str(sum(row.events for row in rows))))
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    return ["  ".join([*map(str.ljust, line[:-1], widths), line[-1].rjust(widths[-1])]) for line in (head, *body)]


def _serve_metrics(port: int, worker: UsageWorker) -> None:
    try:
        serve_metrics(port, USAGE_WORKER, worker.causes)
    except OSError as error:
        raise ConfigError(f"--metrics-port: cannot listen on 127.0.0.1:{port} ({error.strerror})") from None


def _times(since: str | None, until: str | None) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    period = (_time("--since", since) if since else first, _time("--until", until) if until else now)
    if period[0] >= period[1]:
        raise ConfigError("--until: must be later than --since")
    return period


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}: must be a date or time like 2026-11-01 or 2026-11-01T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


async def _report(since: datetime, until: datetime, client: str | None) -> tuple[list[Usage], int]:
    async with tables.connected(load_settings(DatabaseSettings).database_url, READS) as connection:
        return await usage_by_client(connection, since, until, client), await count_rejects(connection, since, until)


async def _rejects(since: datetime, until: datetime) -> list[Rejected]:
    async with tables.connected(
        load_settings(DatabaseSettings).database_url, {"usage_rejects": ("SELECT",)}
    ) as connection:
        return await rejects_of(connection, since, until)


async def _work(settings: UsageWorkerSettings, name: str, metrics_port: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url, shards = settings.redis_url.get_secret_value(), settings.redis_shards
    async with connected(url, shards=shards, seconds=REDIS_TIMEOUT) as clients:
        worker = UsageWorker(
            settings.database_url,
            clients,
            SystemClock(),
            name=name,
            batch=settings.usage_batch,
            records_keep=settings.facts_keep,
        )
        if metrics_port:
            _serve_metrics(metrics_port, worker)
        await worker.run(stop)
