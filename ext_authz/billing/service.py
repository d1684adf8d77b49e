"""What readers of an account may see of its bills: REST and the console call this.

Who is no reader gets the same answer as for an account that does not exist.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from functools import partial
from typing import LiteralString, TypeVar
from uuid import UUID

from ext_authz.billing import invoices
from ext_authz.billing.accounts import Account, midnight
from ext_authz.billing.budgets import Used, used_of
from ext_authz.billing.explain import Calls, calls_of
from ext_authz.billing.formats import FORMATS
from ext_authz.billing.model import Bill, Invoice
from ext_authz.billing.usage import Day, by_day
from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.tokens.model import Actor, NotDone, Why

R = TypeVar("R")

_MINE: LiteralString = """
SELECT name, title, anchor FROM billing_accounts
WHERE name > %(after)s AND (%(everybody)s OR EXISTS (
    SELECT FROM billing_readers WHERE account = name AND issuer = %(issuer)s AND subject = %(subject)s))
ORDER BY name LIMIT %(limit)s
"""
_READS: LiteralString = "SELECT FROM billing_readers WHERE account = %s AND issuer = %s AND subject = %s"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
SHOWN = ("decision_id", "occurred_at", "client", "model", "model_version", "route", "outcome", "billed", "units")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_FIRST, _LAST = date(1970, 1, 1), date(9000, 1, 1)
_NONE = "there is no such billing account, or you may not read its bills"
CURRENT = "current"


class BillingService:
    """Every method raises NotDone, and Unavailable("postgres")."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._writing = asyncio.Semaphore()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    async def accounts(self, actor: Actor, *, after: str = "", limit: int) -> list[Account]:
        """Those whose bills the actor may read, by name; of an administrator all."""
        who = {"issuer": actor.issuer, "subject": actor.subject, "everybody": actor.administrator}
        values = {**who, "after": after, "limit": limit}

        async def found(connection: Connection) -> list[Account]:
            return [Account(*row) for row in await (await connection.execute(_MINE, values)).fetchall()]

        return await self._pool.run(found)

    async def invoices(self, actor: Actor, account: str, *, before: int | None = None, limit: int) -> list[Invoice]:
        """Final ones, the latest first."""
        work = partial(invoices.invoices_of, account=account, before=before, limit=limit)
        return await self._read(actor, account, work)

    async def bill(self, actor: Actor, account: str, which: str) -> Invoice:
        """`which`: the number of a final invoice of the account, a day of the period, or `current`."""
        return await self._read(actor, account, partial(self._found, account=account, which=which))

    async def budget(self, actor: Actor, invoice: Invoice) -> Used | None:
        """Of the current period; other bills have none."""
        bill = invoice.bill
        if invoice.number or not bill.start <= self.now < bill.end:
            return None
        return await self._read(actor, bill.account, partial(used_of, bill=bill))

    async def written(self, invoice: Invoice, form: str) -> bytes:
        """`form`: of `FORMATS`. In a thread, one at a time: a PDF takes a part of a second, and other requests are
        answered meanwhile."""
        async with self._writing:
            return await asyncio.to_thread(FORMATS[form].write, invoice)

    async def days(self, actor: Actor, bill: Bill) -> list[Day]:
        """Calls on each day of the bill's period that had some."""
        return await self._read(actor, bill.account, partial(by_day, spans=bill.clients))

    async def calls(
        self, actor: Actor, account: str, which: str, line: int, *, after: UUID | None, limit: int
    ) -> Calls:
        """Behind a line of a bill. Who called stays between the client and its users."""

        async def work(connection: Connection) -> Calls:
            invoice = await self._found(connection, account, which)
            found, last = await calls_of(connection, invoice, line, after=after, limit=limit)
            return Calls([{name: call[name] for name in SHOWN} for call in found], last)

        return await self._read(actor, account, work)

    async def _found(self, connection: Connection, account: str, which: str) -> Invoice:
        if _NUMBER.fullmatch(which):
            invoice = await invoices.numbered(connection, int(which))
            if invoice.bill.account != account:
                raise NotDone(Why.NOT_FOUND, f"there is no invoice {which}", "number")
            return invoice
        return await invoices.bill_at(connection, account, self.now if which == CURRENT else _day(which))

    async def _read(self, actor: Actor, account: str, work: Callable[[Connection], Awaitable[R]]) -> R:
        async def allowed(connection: Connection) -> R:
            if not _NAME.fullmatch(account):
                raise NotDone(Why.NOT_FOUND, _NONE, "account")
            if not actor.administrator:
                await _ensure_reader(connection, actor, account)
            return await work(connection)

        return await self._pool.run(allowed)


async def _ensure_reader(connection: Connection, actor: Actor, account: str) -> None:
    cursor = await connection.execute(_READS, (account, actor.issuer, actor.subject))
    if not (actor.subject and cursor.rowcount):
        raise NotDone(Why.NOT_FOUND, _NONE, "account")


def _day(text: str) -> datetime:
    try:
        day = datetime.fromisoformat(text).date()
    except ValueError:
        day = date.min
    if not _FIRST <= day < _LAST:
        raise NotDone(Why.INVALID, "write the number of an invoice, a day such as 2026-11-30, or current", "bill")
    return midnight(day)
