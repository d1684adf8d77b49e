"""`tollgate decisions` and `tollgate usage`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import structs

from ext_authz.decision import Reason
from ext_authz.errors import ConfigError
from ext_authz.ledger.event import DecisionRecord, StoredEvent, StoredOutcome
from ext_authz.ledger.selection import ANSWERED, CODES, GROUPS, NOT_RECORDED, Selection
from ext_authz.report import Duration, OneOf, ensure_period, format_option, period_options, print_rows, utc

if TYPE_CHECKING:
    from ext_authz.db.postgres import Connection

C = TypeVar("C", bound=Callable[..., Any])
R = TypeVar("R")

REASONS = ("refused", *(reason.value for reason in Reason))
DEFAULT_BY = ("client", "model", "route")
DECISION = (
    *("time", "decision_id", "issuer", "subject", "username", "client", "token_id", "route", "model", "model_version"),
    *("method", "path", "outcome", "reason", "code", "limit", "revoked", "degraded", "policy"),
    *StoredOutcome.__struct_fields__,
)
READS = "usage_events", "call_outcomes"
DECISION_TABLE = ("time", "decision_id", "user", "client", "route", "model", "outcome", "answered", "why")
NOTHING_RECORDED = DecisionRecord()


def _first_of_month() -> datetime:
    return datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _filters(command: C) -> C:
    """Adds the options that select decisions."""
    for option in (
        click.option(
            "--code",
            type=OneOf((*CODES, *NOT_RECORDED)),
            metavar="CODE",
            help="Only with this error code, such as token_expired.",
        ),
        click.option("--reason", type=OneOf(REASONS), metavar="REASON", help=f"Only with it: {', '.join(REASONS)}."),
        click.option(
            "--answered",
            metavar="STATUS",
            help="Only allowed calls that Envoy answered so: ok, failed, unknown, none, 504, 5xx, 'grpc 14'.",
        ),
        click.option("--route", help="Only on this route."),
        click.option("--model", help="Only about this model."),
        click.option("--client", help="Only of this client."),
        click.option("--user", help="Only of this user: subject, or name if the policy keeps names."),
    ):
        command = option(command)
    return command


def _selection(**given: Any) -> Selection:  # noqa: ANN401 - click's
    ensure_period(given["since"], given["until"])
    if empty := [name for name, value in given.items() if value == ""]:
        raise ConfigError(f"--{empty[0]}: is empty: leave the option out, or write a value")
    if given["code"] in NOT_RECORDED:
        raise ConfigError(f"--code: the ledger has no refusals with {given['code']}, to bound its size: see the log")
    if given["answered"] and not ANSWERED.fullmatch(given["answered"]):
        raise ConfigError("--answered: is not ok, failed, unknown, none, or a status such as 504, 5xx or 'grpc 14'")
    return Selection(**{name: value for name, value in given.items() if value is not None})


@click.command()
@period_options("1h", "1h")
@_filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@format_option
def decisions(limit: int, form: str, **given: Any) -> None:  # noqa: ANN401 - click's
    """List decisions: who called what, and why not.

    The latest come first.
    `tollgate explain DECISION` explains one of them.
    """
    which = _selection(**given)
    found, last = _queried(lambda connection: _decided(connection, which, limit + 1), *READS)
    print_rows(DECISION, [_decision(event) for event in found[:limit]], form, table=DECISION_TABLE)
    if len(found) > limit:
        click.echo(f"there are more than {limit}: narrow the period, or write --limit", err=True)
    elif not found:
        held = f"the last one in Postgres is of {utc(last)}" if last else "Postgres has none at all"
        click.echo(f"no such decision from {utc(which.since)} to {utc(which.until)}: {held}", err=True)


async def _decided(connection: Connection, which: Selection, limit: int) -> tuple[list[StoredEvent], datetime | None]:
    from ext_authz.ledger.queries import latest, newest

    return await latest(connection, which, limit), await newest(connection)


def _decision(event: StoredEvent) -> dict[str, object]:
    record = event.record or NOTHING_RECORDED
    is_allowed = event.reason == Reason.ALLOWED
    cause = event.code if event.code != event.reason else ""
    limit = record.limited_by.partition("\x1f")[0]
    return {
        **structs.asdict(event),
        **(structs.asdict(event.outcome) if event.outcome else dict.fromkeys(StoredOutcome.__struct_fields__)),
        "time": event.occurred_at,
        "user": _user(structs.asdict(event)),
        "outcome": "allowed" if is_allowed else "refused",
        "limit": limit,
        "revoked": record.revoked_by,
        "why": " ".join(filter(None, ["" if is_allowed else event.reason, cause, limit, record.revoked_by])),
    }


@click.group(invoke_without_command=True)
@period_options(_first_of_month, "the first of this month")
@_filters
@click.option("--by", multiple=True, type=OneOf(tuple(GROUPS)), help="Count by this; several are possible.")
@format_option
@click.pass_context
def usage(context: click.Context, /, by: tuple[str, ...], form: str, **given: Any) -> None:  # noqa: ANN401 - click's
    """Count calls by user, client, model, route, day.

    And by outcome, always. Without --by: by client, model and route.
    """
    if context.invoked_subcommand is None:
        which = _selection(**given)
        (columns, rows), rejected = _queried(lambda connection: _used(connection, which, by or DEFAULT_BY), *READS)
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        print_rows(columns, [{**row, "user": _user(row)} for row in found], form, table=_usage_table(columns))
        if rejected:
            what = "1 event of this period" if rejected == 1 else f"{rejected} events of this period"
            click.echo(f"{what} could not be read: see tollgate usage rejects", err=True)


def _usage_table(columns: Sequence[str]) -> list[str]:
    """One column is enough for a user."""
    return ["user" if name == "subject" else name for name in columns if name not in ("issuer", "username")]


def _user(row: Mapping[str, object]) -> object:
    return row.get("username") or row.get("subject")


async def _used(connection: Connection, which: Selection, by: Sequence[str]) -> tuple[tuple[list[str], list[Any]], int]:
    from ext_authz.ledger.queries import count_rejects, usage_of

    return await usage_of(connection, which, by), await count_rejects(connection, which.since, which.until)


@usage.command()
@period_options(_first_of_month, "the first of this month")
@click.option("--format", type=click.Choice(["jsonl"]), default="jsonl", show_default=True, expose_value=False,
              help="Output format: one JSON object per line.")  # fmt: skip
def export(since: datetime, until: datetime) -> None:
    """Write every decision of the period, with its record."""
    import asyncio

    from ext_authz.ledger.queries import export_events
    from ext_authz.settings import DatabaseSettings, load_settings

    ensure_period(since, until)
    asyncio.run(export_events(load_settings(DatabaseSettings).database_url, since, until, sys.stdout.buffer))


@usage.command()
@period_options(_first_of_month, "the first of this month")
@format_option
def rejects(since: datetime, until: datetime, form: str) -> None:
    """List the events that the ledger could not take.

    When they came, from which stream, and why. Their bytes are in usage_rejects.
    """
    from ext_authz.ledger.queries import Rejected, rejects_of

    ensure_period(since, until)
    found = _queried(lambda connection: rejects_of(connection, since, until), "usage_rejects")
    print_rows(Rejected._fields, [reject._asdict() for reject in found], form)


@usage.command()
@period_options("1d", "a day ago")
@click.option("--grace", type=Duration(), metavar="DURATION", default="15m", show_default=True,
              help="Leave out what is younger: its other half may come yet.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@format_option
def reconcile(since: datetime, until: datetime, grace: timedelta, limit: int, form: str) -> None:
    """List what does not add up with Envoy's access log.

    Kind "unsettled": allowed, and no entry says what became of it; not billed.
    Kinds "no decision" and "refused": an entry without a decision that allowed the call. There should be none.
    """
    from ext_authz.ledger.reconcile import Loose, loose

    until = min(until, datetime.now(UTC) - grace)
    ensure_period(since, until)
    found = _queried(lambda connection: loose(connection, since, until, limit + 1), *READS)
    print_rows(Loose._fields, [each._asdict() for each in found[:limit]], form)
    if len(found) > limit:
        click.echo(f"there are more than {limit}: narrow the period, or write --limit", err=True)


def _queried(query: Callable[[Connection], Awaitable[R]], *tables: str) -> R:
    import asyncio

    from ext_authz.db.tables import connected
    from ext_authz.settings import DatabaseSettings, load_settings

    async def queried() -> R:
        url = load_settings(DatabaseSettings).database_url
        async with connected(url, dict.fromkeys(tables, ("SELECT",))) as connection:
            return await query(connection)

    return asyncio.run(queried())
