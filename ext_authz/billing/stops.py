"""Refuses clients whose account has used up its budget, by the counters of the limit that the policy has for it.

A check reads them as it reads every counter. What is to be refused stands in Postgres; here Redis is made to agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import LiteralString

from ext_authz.billing.model import Bill
from ext_authz.db.postgres import Connection
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.policy.model import BUDGET
from ext_authz.quotas.store import QuotaStore
from ext_authz.settlement.model import counter_key

_LOCK: LiteralString = "SELECT FROM billing_budgets WHERE account = %s FOR UPDATE"
_STOPS: LiteralString = "SELECT counter, until, lifted FROM billing_stops WHERE account = %s"
_LIFTED: LiteralString = "DELETE FROM billing_stops WHERE account = %s AND counter = ANY(%s)"


def counters(bill: Bill, now: datetime, issuers: Mapping[str, str]) -> list[str]:
    """Of every client that the account pays for now. `issuers`: name in the policy by `iss`; a client of another issuer
    cannot call."""
    held = {(issuers[each.issuer], each.client) for each in bill.clients if _is_held(each.since, now, each.until)
            and each.issuer in issuers}  # fmt: skip
    return [counter_key(BUDGET, [f"{issuer}:{name}"]) for issuer, client in sorted(held) for name in _names(client)]


async def apply(connection: Connection, store: QuotaStore, account: str) -> None:
    """As Postgres says, whatever Redis lost. One worker at a time does it. Raises Unavailable("redis")."""
    async with connection.transaction():
        await connection.execute(_LOCK, (account,))
        lifted = []
        for counter, until, is_lifted in await (await connection.execute(_STOPS, (account,))).fetchall():
            if is_lifted:
                await store.forget(counter)
                lifted.append(counter)
            else:
                await store.use_up(counter, until)
        await connection.execute(_LIFTED, (account, lifted))


def _names(client: str) -> Iterable[str]:
    """As a token of an issuer names it, and as the owner of API tokens."""
    return client, f"{CLIENT}{client}"


def _is_held(since: datetime, now: datetime, until: datetime) -> bool:
    return since <= now < until
