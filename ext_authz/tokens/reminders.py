"""Who uses an API token that expires soon is told so: a line of the log, a metric, and a request to a webhook.

Every console looks for them; a grant is claimed by the one that marks it first. Tokens that live shorter than twice the
notice are renewed by programs, so nobody is told of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, LiteralString
from uuid import UUID

import httpx
from prometheus_client import Counter

from ext_authz.clock import Clock
from ext_authz.db.backoff import pause
from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import Unavailable
from ext_authz.report import utc
from ext_authz.tokens import rows
from ext_authz.tokens.model import Grant

log = logging.getLogger(__name__)

NOTICES = (timedelta(days=14), timedelta(days=3))
"""How long before a token expires its owner is told, each time once."""
LATELY = timedelta(days=14)
"""What was not used since then nobody misses."""
EVERY = 60.0
"""Seconds between two looks."""
TIMEOUT = 5.0
"""Longest wait for the webhook, in seconds."""
TYPE = "tollgate.token.expires_soon"
REMINDERS = Counter(
    "tollgate_token_reminders", "Reminders of API tokens that expire soon: sent, or failed (tried again).", ["outcome"]
)
for _outcome in ("sent", "failed"):
    REMINDERS.labels(_outcome)

_CLAIM: LiteralString = """
WITH soon AS MATERIALIZED (
    SELECT DISTINCT grant_id FROM tokens WHERE expires_at > %(now)s AND expires_at <= %(now)s + %(first)s
), due AS (
    SELECT grants.id, grants.reminded_at AS before
    FROM soon JOIN grants ON grants.id = soon.grant_id JOIN owners USING (issuer, subject)
    CROSS JOIN LATERAL (
        SELECT max(least(ends_at, expires_at)) AS ends, max(used_at) AS used FROM tokens WHERE grant_id = grants.id
    ) AS held
    WHERE revoked_at IS NULL AND enabled AND held.ends > %(now)s AND used > %(now)s - %(lately)s
        AND (lifetime >= %(first)s * 2 AND held.ends <= %(now)s + %(first)s AND reminded_at IS NULL
            OR lifetime >= %(last)s * 2 AND held.ends <= %(now)s + %(last)s
                AND (reminded_at IS NULL OR reminded_at < held.ends - %(last)s))
    LIMIT 100 FOR UPDATE OF grants SKIP LOCKED
)
UPDATE grants SET reminded_at = %(now)s FROM due WHERE grants.id = due.id RETURNING due.id, due.before
"""
_UNCLAIM: LiteralString = "UPDATE grants SET reminded_at = %s WHERE id = %s AND reminded_at = %s"

Claimed = Sequence[tuple[UUID, datetime | None]]
"""Grants, and when somebody was told of each before."""


class Reminders:
    """Runs in every console."""

    def __init__(self, pool: Pool, clock: Clock, *, source: str, url: str = "") -> None:
        """`source`: our own issuer, whose pages people renew at. `url`: the webhook; empty: there is none."""
        self._pool = pool
        self._clock = clock
        self._source = source
        self._url = url

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            while not stop.is_set():
                try:
                    await self.remind(client)
                except Unavailable as outage:
                    log.warning("reminders: not now", extra={"dependency": outage.dependency, "error": outage.detail})
                await pause(stop, EVERY)

    async def remind(self, client: httpx.AsyncClient) -> int:
        """Of everything that is due; how many were told."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        first, last = NOTICES
        values = {"now": now, "first": first, "last": last, "lately": LATELY}
        sent = 0
        for grant_id, before in await self._pool.run(partial(_claim, values=values)):
            grant = await self._pool.run(partial(rows.grant, wanted=grant_id, now=now))
            if grant is None:
                continue
            why = await self._sent(client, grant) if self._url else ""
            REMINDERS.labels("failed" if why else "sent").inc()
            if why:
                log.warning("reminders: the webhook did not take one", extra={"error": why})
                await self._pool.run(partial(_unclaim, values=(before, grant_id, now)))
                continue
            sent += 1
            owner, days = grant.owner, (grant.expires_at - now).days
            facts = {"issuer": owner.issuer, "subject": owner.subject, "detail": f"grant {grant.id}, in {days} days"}
            log.warning("an API token that is in use expires soon", extra=facts)
        return sent

    async def _sent(self, client: httpx.AsyncClient, grant: Grant) -> str:
        """Why not; empty where it was taken."""
        try:
            async with client.stream(
                "POST", self._url, json=event(grant, self._source), headers=_CLOUD_EVENT
            ) as answer:
                return "" if answer.is_success else f"it answered {answer.status_code}"  # the body is not read
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            return type(failure).__name__  # its text may hold the address, which may be a secret


_CLOUD_EVENT = {"content-type": "application/cloudevents+json"}


def event(grant: Grant, source: str) -> dict[str, object]:
    """CloudEvents 1.0 in JSON. The id is the same for the same notice, so that receivers can drop a repetition."""
    owner = grant.owner
    return {
        "specversion": "1.0",
        "id": f"{grant.id}/{int(grant.expires_at.timestamp())}",
        "source": source,
        "type": TYPE,
        "subject": f"grant:{grant.id}",
        "data": {
            "grant": str(grant.id),
            "name": grant.name,
            "owner": {
                "issuer": owner.issuer,
                "subject": owner.subject,
                "username": owner.username,
                "kind": owner.kind,
                "group": owner.group,
            },
            "expires_at": utc(grant.expires_at),
            "last_used_at": utc(grant.last_used_at) if grant.last_used_at else None,
            "last_used_from": grant.last_used_from,
        },
    }


async def _claim(connection: Connection, values: dict[str, Any]) -> Claimed:
    return await (await connection.execute(_CLAIM, values)).fetchall()


async def _unclaim(connection: Connection, values: tuple[Any, ...]) -> None:
    await connection.execute(_UNCLAIM, values)
