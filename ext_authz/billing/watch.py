"""Two tasks of the usage worker: one looks at budgets and refuses who has used up theirs, the other tells of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from pydantic import SecretStr

from ext_authz.billing import alerts, stops
from ext_authz.billing.budgets import NEEDS, Budget, claim, note_alerts, note_stops
from ext_authz.billing.delivery import Delivery
from ext_authz.billing.invoices import bill_at
from ext_authz.billing.model import Bill
from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.db.tables import connected
from ext_authz.errors import Unavailable
from ext_authz.observability.once import OncePerCause
from ext_authz.quotas.store import QuotaStore
from ext_authz.tokens.model import NotDone

log = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two rounds: a budget that was changed is looked at in the next one."""


class BudgetWatch:
    """In every usage worker: of each budget one does it."""

    def __init__(
        self,
        url: SecretStr,
        store: QuotaStore,
        issuers: Callable[[], Mapping[str, str]],
        clock: Clock,
        *,
        every: float,
        webhook: bool,
    ) -> None:
        """`issuers`: name in the policy by `iss`. `every`: seconds between two looks at one budget. `webhook`: whether
        there is one to be told."""
        self._url = url
        self._store = store
        self._issuers = issuers
        self._clock = clock
        self._every = every
        self._webhook = webhook

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        await _repeated(self._url, self.round, stop, "budgets: not looked at", "budgets: looked at again")

    async def round(self, connection: Connection, stop: asyncio.Event) -> None:
        """Every budget that it is time for."""
        while not stop.is_set() and (account := await self._look(connection)):
            await stops.apply(connection, self._store, account)

    async def _look(self, connection: Connection) -> str:
        """The account that was looked at; empty: none was due."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        async with connection.transaction():
            budget = await claim(connection, self._every)
            if budget is None:
                return ""
            if budget.amount is None:
                await note_stops(connection, budget.account, (), None)
                return budget.account
            try:
                bill = (await bill_at(connection, budget.account, now)).bill
            except NotDone as refused:
                log.warning("budgets: no bill", extra={"detail": f"{budget.account}: {refused.detail}"})
                return budget.account
            await self._note(connection, budget, bill, now)
        return budget.account

    async def _note(self, connection: Connection, budget: Budget, bill: Bill, now: datetime) -> None:
        for threshold in await note_alerts(connection, budget, bill, webhook=self._webhook):
            said = f"{bill.account}: {threshold} % of {budget.amount} {bill.terms.currency}, {bill.total} so far"
            log.warning("a budget is used", extra={"detail": said})
        stopped = budget.stops and budget.is_used_up(bill.total)
        found = stops.counters(bill, now, self._issuers()) if stopped else []
        await note_stops(connection, budget.account, found, bill.end)


class BudgetAlerts:
    """In every usage worker: each alert is sent by one. A webhook or a mail server that hangs delays no look."""

    def __init__(self, url: SecretStr, delivery: Delivery) -> None:
        self._url = url
        self._delivery = delivery

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        await _repeated(self._url, self.round, stop, "budgets: nobody is told", "budgets: alerts are sent again")

    async def round(self, connection: Connection, stop: asyncio.Event) -> None:
        """Every alert that it is time for."""
        while not stop.is_set() and await self._tell(connection):
            pass

    async def _tell(self, connection: Connection) -> bool:
        """Whether there was one. It is sent again if this process is killed before it says that it was sent."""
        async with connection.transaction():
            alert = await alerts.due(connection)
            if alert is None:
                return False
            why = await self._delivery.send(alert)
            await alerts.tried(connection, alert, why)
        if why:
            log.warning("budgets: an alert was not taken", extra={"detail": alert.account, "error": why})
        return True


async def _repeated(
    url: SecretStr,
    work: Callable[[Connection, asyncio.Event], Awaitable[None]],
    stop: asyncio.Event,
    failing: str,
    working: str,
) -> None:
    backoff, outage = Backoff(stop), OncePerCause(log, failing=failing, working=working)
    while not stop.is_set():
        try:
            async with connected(url, NEEDS) as connection:
                while not stop.is_set():
                    await work(connection, stop)
                    backoff.succeeded()
                    outage.worked()
                    await pause(stop, POLL)
        except (Unavailable, OSError) as failure:
            outage.failed(str(failure))
        await backoff.pause()
