"""Price lists in Postgres: published once, never changed."""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from typing import NamedTuple

from ext_authz.billing.accounts import Subscription
from ext_authz.billing.documents import PriceListDocument
from ext_authz.billing.model import Terms
from ext_authz.billing.prices import canonical
from ext_authz.db.postgres import Connection
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor, NotDone, Why


class Published(NamedTuple):
    """What is known of a list."""

    name: str
    valid_from: date
    digest: str
    published_at: datetime
    published_by: str


async def publish(connection: Connection, actor: Actor, document: PriceListDocument) -> bool:
    """In a transaction. False: this very list is there already. Raises NotDone: another one of its name and day is."""
    text = canonical(document.model_dump(mode="json"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    made = await connection.execute(
        "INSERT INTO price_lists (name, valid_from, digest, document, published_by) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        (document.name, date.fromisoformat(document.valid_from), digest, text, actor.name),
    )
    if not made.rowcount:
        await _ensure_same(connection, document, digest)
        return False
    details = {"valid_from": document.valid_from, "digest": digest, "currency": document.currency}
    await audit.record(connection, actor, "prices.published", f"prices:{document.name}", details)
    return True


async def _ensure_same(connection: Connection, document: PriceListDocument, digest: str) -> None:
    query = "SELECT digest FROM price_lists WHERE name = %s AND valid_from = %s"
    cursor = await connection.execute(query, (document.name, document.valid_from))
    if await cursor.fetchall() != [(digest,)]:
        what = f"another list {document.name!r} is valid from {document.valid_from} on, and no list is ever changed"
        raise NotDone(Why.CONFLICT, f"{what}: choose another day", "valid_from")


async def published(connection: Connection, limit: int) -> list[Published]:
    """By name, the latest first."""
    cursor = await connection.execute(
        "SELECT name, valid_from, digest, published_at, published_by FROM price_lists "
        "ORDER BY name, valid_from DESC LIMIT %s",
        (limit,),
    )
    return [Published(*row) for row in await cursor.fetchall()]


async def terms(connection: Connection, subscribed: Subscription, day: date) -> Terms:
    """What a period that begins on this day is billed by: the list in force then. Raises NotDone."""
    cursor = await connection.execute(
        "SELECT document, digest FROM price_lists WHERE name = %s AND valid_from <= %s "
        "ORDER BY valid_from DESC LIMIT 1",
        (subscribed.prices, day),
    )
    rows = await cursor.fetchall()
    if not rows:
        hint = "tollgate bill prices publish FILE, with valid_from of that day or earlier"
        raise NotDone(Why.CONFLICT, f"there is no price list {subscribed.prices!r} for {day}: {hint}", "prices")
    ((text, digest),) = rows
    document = PriceListDocument.model_validate(json.loads(text))
    plan = document.plans.get(subscribed.plan)
    if plan is None:
        known = ", ".join(sorted(document.plans))
        what = f"the price list {document.name} of {document.valid_from} has no plan {subscribed.plan!r}"
        raise NotDone(Why.CONFLICT, f"{what}: it has {known}", "plan")
    content = plan.model_dump(mode="json")
    return Terms(document.name, document.valid_from, digest, document.currency, subscribed.plan, content)
