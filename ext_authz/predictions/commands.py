"""`tollgate predictions ...`: the prediction log, for operators. Owners of models use the REST interface."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from ext_authz.errors import ConfigError
from ext_authz.report import Time, by_option, format_option, operator, print_rows

if TYPE_CHECKING:
    from ext_authz.predictions.service import PredictionService, Which
    from ext_authz.tokens.model import Actor

C = TypeVar("C", bound=Callable[..., Any])
R = TypeVar("R")

TABLE = ("at", "decision_id", "row", "version", "variant", "mirrored", "subject", "client", "inputs", "outputs")


@click.group()
def predictions() -> None:
    """List, export and delete what models answered.

    Models write it where TOLLGATE_PREDICTIONS says so, and the policy says what is kept.
    """


def _times(command: C) -> C:
    until = click.option("--until", type=Time(), metavar="TIME", help="End, exclusive.")
    return click.option("--since", type=Time(), metavar="TIME", help="Start: 15m, 10:30, 2026-11-01.")(until(command))


def _filters(command: C) -> C:
    for name, what in (("label", "with this label"), ("variant", "of this variant"), ("version", "of this version")):
        command = click.option(f"--{name}", default="", help=f"Only {what}.")(command)
    return _times(command)


@predictions.command("list")
@click.argument("model")
@_filters
@click.option("--decision", "decision_id", type=click.UUID, metavar="ID", help="Only of this decision.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Maximum number.")
@click.option("--after", "cursor", metavar="CURSOR", default="", help="Continue where the last list ended.")
@format_option
def list_predictions(model: str, limit: int, cursor: str, form: str, **given: Any) -> None:  # noqa: ANN401 - click's
    """List predictions, the newest first."""
    from dataclasses import asdict, fields

    from ext_authz.predictions.service import Prediction

    which = _which(**given)
    page = _with(lambda service, actor: service.page(actor, model, which, cursor=cursor, limit=limit))
    rows = [_printed(asdict(each), form) for each in page.predictions]
    print_rows([field.name for field in fields(Prediction)], rows, form, table=TABLE)
    if page.cursor:
        click.echo(f"there are more: --after {page.cursor}", err=True)


@predictions.command()
@click.argument("model")
@_filters
def export(model: str, **given: Any) -> None:  # noqa: ANN401 - click's
    """Write all of them, one JSON object per line, the oldest first."""
    import msgspec

    which, encode = _which(**given), msgspec.json.Encoder().encode

    async def written(service: PredictionService, actor: Actor) -> None:
        async for prediction in await service.export(actor, model, which):
            sys.stdout.buffer.write(encode(prediction) + b"\n")

    _with(written)


@predictions.command()
@click.argument("model")
@_times
@click.option("--decision", "decision_id", type=click.UUID, metavar="ID", help="Only of this decision.")
@click.option("--all", "everything", is_flag=True, help="All of the model.")
@by_option
def delete(model: str, since: datetime | None, until: datetime | None, decision_id: UUID | None, by: str, *,
           everything: bool) -> None:  # fmt: skip
    """Delete predictions.

    Also what models have written and nobody has moved to Postgres yet.
    """
    if not (since or until or decision_id or everything):
        raise ConfigError("say what to delete: --since, --until or --decision, or --all")
    which = _which(since=since, until=until, decision_id=decision_id)
    click.echo(f"{_with(lambda service, actor: service.delete(actor, model, which), by)} deleted")


def _printed(row: dict[str, Any], form: str) -> dict[str, Any]:
    """Values are objects in JSON, and JSON elsewhere."""
    ids = {name: str(row[name]) for name in ("id", "decision_id")}
    values = {} if form == "json" else {name: json.dumps(row[name]) for name in ("inputs", "outputs") if row[name]}
    return {**row, **ids, **values}


def _which(**given: Any) -> Which:  # noqa: ANN401 - click's
    from ext_authz.predictions.service import Which

    return Which(**{name: value for name, value in given.items() if value is not None})


def _with(work: Callable[[PredictionService, Actor], Awaitable[R]], by: str = "") -> R:
    import asyncio

    from ext_authz.db.postgres import Pool
    from ext_authz.predictions.service import PredictionService
    from ext_authz.settings import DatabaseSettings, load_settings
    from ext_authz.tokens.model import Actor, NotDone

    async def done() -> R:
        pool = Pool(load_settings(DatabaseSettings).database_url.get_secret_value(), timeout=_PATIENCE, size=1)
        await pool.open()
        try:
            return await work(PredictionService(pool, None), Actor(via="cli", name=by or operator()))
        finally:
            await pool.close()

    try:
        return asyncio.run(done())
    except NotDone as refused:
        raise ConfigError(refused.detail) from None


_PATIENCE = 60.0
"""Longest wait for Postgres, in seconds: a filter may have to read every row."""
