"""The process of `tollgate ledger publish`."""

from __future__ import annotations

import asyncio
import signal

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import Pool
from ext_authz.ledger.kafka import Topic
from ext_authz.ledger.publisher import Publisher
from ext_authz.publisher_settings import PublisherSettings

_POSTGRES_TIMEOUT = 30.0
"""Seconds, of one batch."""
_CONNECTIONS = 2
"""One for the lease, one for the work."""


async def serve(settings: PublisherSettings) -> None:
    """Until SIGTERM or SIGINT; then the batch in hand is given up, and sent again by the next process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    topic = Topic(settings)
    pool = Pool(settings.database_url.get_secret_value(), timeout=_POSTGRES_TIMEOUT, size=_CONNECTIONS)
    await pool.open()
    try:
        await Publisher(pool, topic, SystemClock(), settings.kafka_source).run(stop)
    finally:
        await pool.close()
