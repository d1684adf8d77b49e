"""Accounts in Postgres: who pays for which clients, by which plan. All days are of UTC.

What a final invoice was made from cannot be changed any more: no client and no plan from a day that one covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import LiteralString, NamedTuple

from msgspec import Struct

from ext_authz.billing.model import Span
from ext_authz.billing.periods import Period
from ext_authz.db.postgres import Connection
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor, NotDone, Why

FINALIZING = 7_263_517_096
"""The advisory lock of `invoices_chain()`: while somebody holds it, nothing that invoices are made from changes."""
_OWNED: LiteralString = """
WITH held AS (
    SELECT issuer, client, account, since, lead(since) OVER (PARTITION BY issuer, client ORDER BY since) AS next
    FROM billing_clients
    WHERE (issuer, client) IN (SELECT issuer, client FROM billing_clients WHERE account = %(account)s)
)
SELECT issuer, client, greatest(since::timestamp AT TIME ZONE 'UTC', %(start)s),
    least(next::timestamp AT TIME ZONE 'UTC', %(end)s)
FROM held WHERE account = %(account)s AND since::timestamp AT TIME ZONE 'UTC' < %(end)s
    AND (next IS NULL OR next::timestamp AT TIME ZONE 'UTC' > %(start)s)
ORDER BY 1, 2, 3
"""


class Account(Struct, frozen=True):
    """Who pays."""

    name: str
    title: str
    """As it stands on bills."""
    anchor: date
    """The first day of the first period; the others begin on the same day of each month."""

    @property
    def begin(self) -> datetime:
        return midnight(self.anchor)


class Subscription(NamedTuple):
    """What an account pays by."""

    since: date
    plan: str
    prices: str


def midnight(day: date) -> datetime:
    """Where a day begins, in UTC."""
    return datetime.combine(day, time(), UTC)


async def account_named(connection: Connection, name: str) -> Account:
    """Raises NotDone."""
    cursor = await connection.execute("SELECT name, title, anchor FROM billing_accounts WHERE name = %s", (name,))
    rows = await cursor.fetchall()
    if not rows:
        raise NotDone(Why.NOT_FOUND, f"there is no billing account {name!r}", "account")
    return Account(*rows[0])


async def accounts(connection: Connection, *, after: str = "", limit: int) -> list[Account]:
    """By name, after this one."""
    query = "SELECT name, title, anchor FROM billing_accounts WHERE name > %s ORDER BY name LIMIT %s"
    cursor = await connection.execute(query, (after, limit))
    return [Account(*row) for row in await cursor.fetchall()]


async def create(connection: Connection, actor: Actor, account: Account) -> None:
    """In a transaction, as all below. Raises NotDone."""
    query = "INSERT INTO billing_accounts (name, title, anchor) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
    made = await connection.execute(query, (account.name, account.title, account.anchor))
    if not made.rowcount:
        raise NotDone(Why.CONFLICT, f"there is a billing account {account.name!r} already", "account")
    details = {"title": account.title, "anchor": account.anchor}
    await audit.record(connection, actor, "account.created", f"account:{account.name}", details)


async def assign(
    connection: Connection, actor: Actor, account: str | None, issuer: str, client: str, since: date
) -> None:
    """From this day on the client is the account's; None: nobody's. Raises NotDone."""
    await _locked(connection)
    if account is not None:
        await account_named(connection, account)
    before = await _holders(connection, issuer, client, since)
    for name in {*before, account} - {None}:
        await _ensure_open(connection, str(name), since)
    await connection.execute(
        "INSERT INTO billing_clients (issuer, client, since, account) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (issuer, client, since) DO UPDATE SET account = excluded.account",
        (issuer, client, since, account),
    )
    details = {"issuer": issuer, "client": client, "since": since, "before": sorted(filter(None, before))}
    await audit.record(connection, actor, "account.client", f"account:{account or ''}", details)


async def _holders(connection: Connection, issuer: str, client: str, since: date) -> set[str | None]:
    """Whose the client is on this day or becomes on it."""
    cursor = await connection.execute(
        "SELECT account FROM billing_clients WHERE issuer = %s AND client = %s AND since <= %s "
        "ORDER BY since DESC LIMIT 1",
        (issuer, client, since),
    )
    return {account for (account,) in await cursor.fetchall()}


async def subscribe(connection: Connection, actor: Actor, account: str, wanted: Subscription) -> None:
    """For periods that begin on that day or later. Raises NotDone."""
    await _locked(connection)
    await account_named(connection, account)
    await _ensure_open(connection, account, wanted.since)
    await connection.execute(
        "INSERT INTO billing_subscriptions (account, since, plan, prices) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (account, since) DO UPDATE SET plan = excluded.plan, prices = excluded.prices",
        (account, wanted.since, wanted.plan, wanted.prices),
    )
    await audit.record(connection, actor, "account.subscribed", f"account:{account}", wanted._asdict())


async def allow_reader(
    connection: Connection, actor: Actor, account: str, issuer: str, subject: str, *, allowed: bool
) -> None:
    """Whether this caller may read the account's bills. Raises NotDone."""
    await account_named(connection, account)
    values = (account, issuer, subject)
    if allowed:
        query = "INSERT INTO billing_readers (account, issuer, subject) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
    else:
        query = "DELETE FROM billing_readers WHERE account = %s AND issuer = %s AND subject = %s"
    if not (await connection.execute(query, values)).rowcount:
        state = "may read it already" if allowed else "is no reader of it"
        raise NotDone(Why.CONFLICT, f"{account}: {subject!r} of issuer {issuer!r} {state}", "subject")
    action = "account.reader_added" if allowed else "account.reader_removed"
    await audit.record(connection, actor, action, f"account:{account}", {"issuer": issuer, "subject": subject})


async def spans(connection: Connection, account: str, period: Period) -> tuple[Span, ...]:
    """Its clients, each for as much of the period as it was the account's."""
    cursor = await connection.execute(_OWNED, {"account": account, "start": period.start, "end": period.end})
    return tuple(Span(*row) for row in await cursor.fetchall())


async def subscription(connection: Connection, account: str, day: date) -> Subscription:
    """The one in force on this day. Raises NotDone."""
    cursor = await connection.execute(
        "SELECT since, plan, prices FROM billing_subscriptions WHERE account = %s AND since <= %s "
        "ORDER BY since DESC LIMIT 1",
        (account, day),
    )
    rows = await cursor.fetchall()
    if not rows:
        hint = f"tollgate bill accounts subscribe {account} PLAN --since {day}"
        raise NotDone(Why.CONFLICT, f"{account} has no plan on {day}: {hint}", "account")
    return Subscription(*rows[0])


async def closed_until(connection: Connection, account: str) -> datetime | None:
    """The end of its last final invoice."""
    cursor = await connection.execute("SELECT max(period_end) FROM invoices WHERE account = %s", (account,))
    ((end,),) = await cursor.fetchall()
    return end if isinstance(end, datetime) else None


async def readers(connection: Connection, account: str) -> Sequence[tuple[str, str]]:
    """Issuer and subject of each."""
    query = "SELECT issuer, subject FROM billing_readers WHERE account = %s ORDER BY 1, 2"
    return [(issuer, subject) for issuer, subject in await (await connection.execute(query, (account,))).fetchall()]


async def _locked(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (FINALIZING,))


async def _ensure_open(connection: Connection, account: str, since: date) -> None:
    closed = await closed_until(connection, account)
    if closed is not None and midnight(since) < closed:
        what = f"the invoices of {account} are final up to {closed.date()}"
        raise NotDone(Why.CONFLICT, f"{what}: choose that day or a later one", "since")
