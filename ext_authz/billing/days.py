"""The days on which the periods of clients begin, as a policy names them: a check asks no store for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import LiteralString

from ext_authz.db.postgres import Connection
from ext_authz.policy.model import Policy

NEEDS = {"billing_clients": ("SELECT",), "billing_accounts": ("SELECT",)}
Days = Mapping[str, Mapping[str, int]]
"""By issuer (its name in the policy) and client."""

_HELD: LiteralString = """
SELECT held.issuer, held.client, extract(day FROM anchor)::int
FROM (
    SELECT DISTINCT ON (issuer, client) issuer, client, account FROM billing_clients WHERE since <= %s
    ORDER BY issuer, client, since DESC
) AS held JOIN billing_accounts ON name = held.account
WHERE extract(day FROM anchor) > 1 AND held.issuer = ANY(%s) ORDER BY 1, 2
"""


async def of_accounts(connection: Connection, policy: Policy, today: date) -> Days:
    """Of clients that an account pays for today, but for those that begin on the 1st, as all others do."""
    names = {issuer.issuer: issuer.name for issuer in policy.issuers}
    found: dict[str, dict[str, int]] = {}
    for iss, client, day in await (await connection.execute(_HELD, (today, list(names)))).fetchall():
        found.setdefault(names[iss], {})[client] = day
    return found


def of_policy(policy: Policy) -> Days | None:
    """None where no limit has an anchor."""
    return next((rule.billing_days for rule in policy.limits.values() if rule.billing_days is not None), None)


def written(days: Days) -> str:
    """As YAML, for a file that the policy includes."""
    lines = ["billing_days:" if days else "billing_days: {}"]
    for issuer, clients in days.items():
        lines.append(f"  {issuer}:")
        lines += [f"    {json.dumps(client, ensure_ascii=False)}: {day}" for client, day in clients.items()]
    return "\n".join(lines)


def differences(accounts: Days, policy: Days) -> list[str]:
    """One sentence per client whose day is another in the policy than in its account."""
    clients = sorted({(issuer, client) for days in (accounts, policy) for issuer in days for client in days[issuer]})
    found = []
    for issuer, client in clients:
        paid, counted = (days.get(issuer, {}).get(client, 1) for days in (accounts, policy))
        if paid != counted:
            found.append(f"{issuer}:{client}: its periods begin on day {paid}, its quotas on day {counted}")
    return found
