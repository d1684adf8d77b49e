"""The parts of the ledger, one per month: made ahead of time, and dropped when they are older than they are kept.

Postgres does both, with the rights of the tables' owner (db/migrations/0022). A decision id begins with its time, which
says the month. A month is dropped only when all its events are in the sums, and every account's bills of it are final.
"""

from __future__ import annotations

import asyncio
import logging
from typing import LiteralString

from pydantic import SecretStr

from ext_authz.db.backoff import pause
from ext_authz.db.postgres import Connection
from ext_authz.db.tables import connected
from ext_authz.errors import Unavailable
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

NEEDS = {"usage_events": ("INSERT",)}
"""The privileges of who has months made."""
DROPS = {"usage_events": ("INSERT", "DELETE")}
"""Of who has them dropped, too."""
EVERY = 3600.0
"""Seconds between two looks."""
AGAIN = 60.0
"""The same after a failure: each try may hold up writers for two seconds."""
_AHEAD: LiteralString = "SELECT usage_months_ahead()"
_DROP: LiteralString = "SELECT part, kept FROM usage_month_drop(%s)"


async def make(connection: Connection) -> int:
    """The parts for events of the next three months; how many were missing."""
    ((made,),) = await (await connection.execute(_AHEAD)).fetchall()
    return int(made)


async def drop(connection: Connection, keep: int) -> tuple[list[str], str]:
    """Those that ended `keep` months before this one, oldest first: names of tables, and what keeps the next one."""
    dropped = list[str]()
    while True:
        ((part, kept),) = await (await connection.execute(_DROP, (keep,))).fetchall()
        if part is None or kept:
            return dropped, kept or ""
        dropped.append(part)


class Months:
    """One task of the usage worker; several workers may do it."""

    def __init__(self, url: SecretStr, keep: int) -> None:
        """`keep`: months; 0 for ever."""
        self._url = url
        self._keep = keep
        self._outage = OncePerCause(
            log, failing="ledger: months not looked after", working="ledger: months looked after again"
        )
        self._held = OncePerCause(
            log,
            failing="ledger: a month is kept for longer than TOLLGATE_USAGE_KEEP",
            working="ledger: no month is kept for longer",
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            try:
                async with connected(self._url, DROPS if self._keep else NEEDS) as connection:
                    await self._look_after(connection)
            except (Unavailable, OSError) as failure:
                self._outage.failed(str(failure))
                await pause(stop, AGAIN)
            else:
                self._outage.worked()
                await pause(stop, EVERY)

    async def _look_after(self, connection: Connection) -> None:
        if made := await make(connection):
            log.info("ledger: months made", extra={"count": made})
        dropped, kept = await drop(connection, self._keep) if self._keep else ([], "")
        if dropped:
            log.info("ledger: months dropped", extra={"detail": ", ".join(dropped)})
        if kept:
            self._held.failed(kept)
        else:
            self._held.worked()
