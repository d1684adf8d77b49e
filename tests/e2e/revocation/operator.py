"""An operator at the command line, and the ledger of past decisions."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
from click.testing import Result
from msgspec import Raw
from redis import Redis

from ext_authz.ledger.event import COLUMNS, DecisionRecord, Event, encode
from ext_authz.ledger.stream import Row, StreamEntry, parse

Tollgate = Callable[..., Result]

ISS = "https://idp.example/realms/demo"
POLICY = f"""
version: 1
issuers:
  - {{name: demo, issuer: "{ISS}", jwks_url: "https://idp.example/certs", audiences: [models]}}
  - {{name: other, issuer: "https://other.example", jwks_url: "https://other.example/certs", audiences: [models]}}
routes:
  - {{name: live, path: /v2/health/live, methods: [GET], public: true}}
"""
HELD = "in force on every replica: postgres and redis hold it"
LIFTED = "lifted on every replica: postgres and redis hold it"


class Ledger:
    """Decisions of the past."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    def call(
        self,
        token: str = "jti-1",
        *,
        subject: str = "sub-1",
        username: str = "alice",
        session: str = "sid-1",
        client: str = "web-app",
        age: timedelta = timedelta(minutes=2, seconds=5),
    ) -> str:
        """Put one into the ledger; its id."""
        known = DecisionRecord(issuer_name="demo", session=session)
        event = Event(
            decision_id=str(uuid.uuid4()),
            issuer=ISS,
            subject=subject,
            client=client,
            token_id=token,
            username=username,
            record=Raw(encode(known)),
        )
        self._write(event, datetime.now(UTC) - age)
        return event.decision_id

    def _write(self, event: Event, at: datetime) -> None:
        line = parse(StreamEntry(f"{at.timestamp() * 1000:.0f}-0", {b"e": encode(event), b"o": b"0"}))
        assert isinstance(line, Row)
        names, marks = ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS))
        row = (*line.cells[:-2], at, line.cells[-1])
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"INSERT INTO usage_events ({names}) VALUES ({marks})", row)


def held(redis_url: str, entry_id: str) -> bytes | None:
    with Redis.from_url(redis_url) as redis:
        value = redis.get(f"{{tg0}}:r:{entry_id}")
        return value if isinstance(value, bytes) and not value.startswith(b"-") else None
