"""`tollgate quota ...`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ext_authz.errors import ConfigError
from ext_authz.policy.documents.base import MAX_RATE
from ext_authz.report import Duration, by_option, format_option, operator, print_rows, short, utc

if TYPE_CHECKING:
    from ext_authz.db.postgres import Connection
    from ext_authz.db.tables import Needs
    from ext_authz.quotas.counters import Counter
    from ext_authz.quotas.store import QuotaStore
    from ext_authz.tokens.model import Actor

C = TypeVar("C", bound=Callable[..., Any])
R = TypeVar("R")
Work = Callable[["Connection", "QuotaStore"], Awaitable[R]]

_LONGEST_REASON = 1000
_SHORTEST = timedelta(minutes=1)
_COUNTER = ("limit", "by", "used", "ends", "boost")
_BOOST = ("counter", "amount", "until", "reason", "made_at", "made_by", "ended_at")


class _Of(click.ParamType[tuple[str, str]]):
    """What a limit counts by, and the value."""

    name = "part=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        part, separator, text = str(value).partition("=")
        if not (part and separator):
            self.fail("write PART=VALUE, such as client=main:shop", param, ctx)
        return part, text


_limit = click.argument("limit", metavar="LIMIT")
_of = click.option("--of", "parts", type=_Of(), multiple=True, metavar="PART=VALUE",
                   help="What it counts by, once for each part, as GET /.tollgate/quota shows it.")  # fmt: skip
_reason = click.option("--reason", required=True, callback=short(_LONGEST_REASON), help="Why; kept in the audit log.")


@click.group()
def quota() -> None:
    """See, reset and boost what limits have counted."""


@quota.command()
@_limit
@_of
@format_option
def show(limit: str, parts: tuple[tuple[str, str], ...], form: str) -> None:
    """Show what a limit has counted."""
    counter = _counter(limit, parts)

    async def work(store: QuotaStore) -> None:
        count = await store.read(counter)
        ends = datetime.fromtimestamp(count.ends / 1000, UTC) if count.ends else None
        used = None if count.used is None else count.used + count.boost
        by = " ".join(f"{part}={value}" for part, value in counter.by.items())
        row = {"limit": limit, "by": by, "used": used, "ends": ends, "boost": count.boost or None}
        print_rows(_COUNTER, [row], form)

    asyncio.run(_with_store(work))


@quota.command()
@_limit
@_of
@_reason
@by_option
def reset(limit: str, parts: tuple[tuple[str, str], ...], reason: str, by: str) -> None:
    """Let a limit count anew, at every replica.

    A boost of it ends.
    """
    from ext_authz.quotas.boosts import NEEDS
    from ext_authz.quotas.boosts import reset as done

    counter = _counter(limit, parts)
    _run(NEEDS, lambda connection, store: done(connection, store, _actor(by), counter, _said(reason)))
    click.echo(f"{limit}: counts anew from now on")


@quota.command()
@_limit
@click.argument("amount", type=click.IntRange(1, MAX_RATE))
@_of
@click.option("--expires-in", "lasts", type=Duration(), required=True,
              help="How long it stays in force; not beyond the window in which it is given.")  # fmt: skip
@_reason
@by_option
def boost(limit: str, amount: int, parts: tuple[tuple[str, str], ...], lasts: timedelta, reason: str, by: str) -> None:
    """Give AMOUNT more than a limit, for a while.

    For fixed windows and periods of the calendar, in the window that is open or opens now.
    """
    from ext_authz.quotas.boosts import NEEDS
    from ext_authz.quotas.boosts import boost as given

    if lasts < _SHORTEST:
        raise ConfigError("--expires-in: write 1m or more")
    counter = _counter(limit, parts)
    until = _run(
        NEEDS,
        lambda connection, store: given(
            connection, store, _actor(by), counter, amount=amount, lasts=lasts, reason=_said(reason)
        ),
    )
    click.echo(f"{limit}: {amount} more until {utc(until)}")


@quota.command()
@click.option("--all", "ended", is_flag=True, help="Those too that have ended.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Maximum number.")
@format_option
def boosts(form: str, *, ended: bool, limit: int) -> None:
    """List boosts, the latest first."""
    from ext_authz.quotas.boosts import ENDING
    from ext_authz.quotas.boosts import boosts as found
    from ext_authz.settlement.model import SEPARATOR

    listed = _run(ENDING, lambda connection, _: found(connection, ended=ended, limit=limit))
    rows = [
        {name: getattr(each, name) for name in _BOOST} | {"counter": each.counter.replace(SEPARATOR, " ")}
        for each in listed
    ]
    print_rows(_BOOST, rows, form)


def _counter(limit: str, parts: tuple[tuple[str, str], ...]) -> Counter:
    import os

    from ext_authz.policy.load import load_policy
    from ext_authz.quotas.counters import counter_of
    from ext_authz.settings import PolicySettings, load_settings

    path = load_settings(PolicySettings).policy
    if path is None:
        raise ConfigError("TOLLGATE_POLICY: name the policy: it says what the limit counts by")
    return counter_of(load_policy(path, os.environ), limit, parts)


def _said(reason: str) -> str:
    if not reason.strip():
        raise ConfigError("--reason: say why")
    return reason


def _actor(by: str) -> Actor:
    from ext_authz.tokens.model import Actor

    return Actor(via="cli", name=by or operator())


async def _with_store(work: Callable[[QuotaStore], Awaitable[R]]) -> R:
    from ext_authz.quotas.store import quota_store
    from ext_authz.settings import StoreSettings, load_settings

    async with quota_store(load_settings(StoreSettings)) as store:
        return await work(store)


def _run(needs: Needs, work: Work[R]) -> R:
    from ext_authz.db.tables import connected
    from ext_authz.settings import DatabaseSettings, load_settings

    async def done(store: QuotaStore) -> R:
        async with connected(load_settings(DatabaseSettings).database_url, needs) as connection:
            return await work(connection, store)

    return asyncio.run(_with_store(done))
