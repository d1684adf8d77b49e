"""Reads the usage that the tour made from Postgres, and holds it against what was sent."""

from __future__ import annotations

import time
from collections import Counter

import psycopg

from devstack.demo.steps import Outcome, Tour

_WAIT = 15.0


def bill(tour: Tour, database_url: str) -> Outcome:
    """Per (client, reason): what was sent against what the ledger holds. Waits until as many events have arrived."""
    sent, deadline = tour.caller.sent, time.monotonic() + _WAIT
    with psycopg.connect(database_url, autocommit=True) as connection:
        while sum((billed := _billed(connection)).values()) < sum(sent.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
    differences = {key: (sent[key], billed[key]) for key in sent | billed if sent[key] != billed[key]}
    if differences:
        return Outcome(f"(client, reason): (sent, billed) {differences}")
    return Outcome("equal to what was sent", f"{sum(billed.values())} events: {_readable(billed)}")


def _billed(connection: psycopg.Connection[tuple[object, ...]]) -> Counter[tuple[str, str]]:
    rows = connection.execute("SELECT client, reason, count(*) FROM usage_events GROUP BY 1, 2").fetchall()
    return Counter({(str(client), str(reason)): int(str(count)) for client, reason, count in rows})


def _readable(billed: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{client or 'nobody'} {reason} {count}" for (client, reason), count in sorted(billed.items()))
