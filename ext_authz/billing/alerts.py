"""Alerts about budgets: what they say, to a webhook and by mail."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from email.message import EmailMessage
from email.utils import format_datetime
from typing import LiteralString
from uuid import UUID

import msgspec
from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.report import utc

TYPE = "tollgate.budget.reached"
SOURCE = "/tollgate/billing"
_DUE: LiteralString = """
SELECT alert.id, account, title, period_start, period_end, budget, threshold, target, total, currency, made_at, tries
FROM billing_alerts AS alert JOIN billing_accounts ON name = account
WHERE sent_at IS NULL AND try_at <= now() AND made_at > now() - interval '7 days'
ORDER BY try_at LIMIT 1 FOR UPDATE OF alert SKIP LOCKED
"""
_SENT: LiteralString = "UPDATE billing_alerts SET sent_at = now(), tries = tries + 1, error = '' WHERE id = %s"
_FAILED: LiteralString = """
UPDATE billing_alerts SET tries = tries + 1, error = %s,
    try_at = now() + least(interval '10 seconds' * 2 ^ least(tries, 20), interval '1 hour') WHERE id = %s
"""
_LIST: LiteralString = """
SELECT made_at, threshold, total, currency, budget, target, sent_at, tries, error FROM billing_alerts
WHERE account = %s ORDER BY made_at DESC, target LIMIT %s
"""
LISTED = ("made_at", "threshold", "total", "currency", "budget", "target", "sent_at", "tries", "error")


class Alert(Struct, frozen=True):
    """To one target, about one threshold."""

    id: UUID
    account: str
    title: str
    start: datetime
    end: datetime
    budget: Decimal
    threshold: int
    """In percent."""
    target: str
    total: Decimal
    """When it was noticed."""
    currency: str
    made_at: datetime
    tries: int
    """That failed."""


async def due(connection: Connection) -> Alert | None:
    """The next one to be sent; nobody else sends it until the transaction ends."""
    rows = await (await connection.execute(_DUE)).fetchall()
    return Alert(*rows[0]) if rows else None


async def tried(connection: Connection, alert: Alert, why: str) -> None:
    """`why`: what went wrong; empty where it was taken."""
    if why:
        await connection.execute(_FAILED, (why[:200], alert.id))
    else:
        await connection.execute(_SENT, (alert.id,))


async def alerts_of(connection: Connection, account: str, limit: int) -> list[dict[str, object]]:
    """With the fields of `LISTED`, the latest first."""
    cursor = await connection.execute(_LIST, (account, limit))
    return [dict(zip(LISTED, row, strict=True)) for row in await cursor.fetchall()]


def event(alert: Alert) -> bytes:
    """CloudEvents 1.0 in JSON. The id stays the same when it is sent again."""
    data = {
        "account": alert.account,
        "title": alert.title,
        "period_start": utc(alert.start),
        "period_end": utc(alert.end),
        "threshold": alert.threshold,
        "budget": str(alert.budget),
        "total": str(alert.total),
        "currency": alert.currency,
    }
    about = {"id": str(alert.id), "source": SOURCE, "type": TYPE, "subject": f"account:{alert.account}"}
    return msgspec.json.encode({"specversion": "1.0", "time": utc(alert.made_at), **about, "data": data})


def mail(alert: Alert, sender: str) -> EmailMessage:
    """Plain text; with the same Message-ID when it is sent again."""
    message = EmailMessage()
    message["From"], message["To"] = sender, alert.target
    message["Subject"] = f"{alert.title}: {alert.threshold} % of the budget is used"
    message["Date"] = format_datetime(alert.made_at)
    message["Message-ID"] = f"<{alert.id}@{sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"{alert.title} (account {alert.account}) has used {alert.total} {alert.currency} of its budget of "
        f"{alert.budget} {alert.currency}\nfor the billing period from {alert.start:%Y-%m-%d} to "
        f"{alert.end:%Y-%m-%d} (UTC, the latter excluded).\n\nThis was seen at {utc(alert.made_at)}.\n"
    )
    return message
