"""A task of the usage worker: takes boosts back when their time is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pydantic import SecretStr
from redis.asyncio import Redis

from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.tables import connected
from ext_authz.errors import Unavailable
from ext_authz.observability.once import OncePerCause
from ext_authz.quotas.boosts import BATCH, ENDING, end_due
from ext_authz.quotas.store import QuotaStore

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two looks."""


class EndingBoosts:
    """In every usage worker: each boost is taken back once, whoever does it."""

    def __init__(self, url: SecretStr, clients: Sequence[Redis]) -> None:
        """`clients`: of every shard."""
        self._url = url
        self._store = QuotaStore(clients)
        self._outage = OncePerCause(log, failing="quotas: boosts do not end", working="quotas: boosts end again")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with connected(self._url, ENDING) as connection:
                    while not stop.is_set():
                        ended = await end_due(connection, self._store)
                        backoff.succeeded()
                        self._outage.worked()
                        if ended < BATCH:
                            await pause(stop, EVERY)
            except (Unavailable, OSError) as failure:
                self._outage.failed(str(failure))
            await backoff.pause()
