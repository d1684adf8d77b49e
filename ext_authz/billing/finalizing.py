"""Making bills final, one transaction each: of one account, or of all whose periods have ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from ext_authz.billing import invoices
from ext_authz.billing.accounts import accounts
from ext_authz.billing.model import Invoice
from ext_authz.db.postgres import Connection
from ext_authz.tokens.model import Actor, NotDone

NEEDS = {**invoices.NEEDS, "invoices": ("SELECT", "INSERT"), "audit_log": ("INSERT",)}
"""The privileges of whoever finalizes."""
_PAGE = 500


async def finalize_one(
    connection: Connection, actor: Actor, account: str, now: datetime, grace: timedelta
) -> Invoice | None:
    """The oldest period that is not final; None: it has not ended. Raises NotDone."""
    async with connection.transaction():
        return await invoices.finalize(connection, actor, account, now, grace)


async def finalize_all(
    connection: Connection, actor: Actor, now: datetime, grace: timedelta,
    made: Callable[[Invoice], None], failed: Callable[[str, str], None],
) -> int:  # fmt: skip
    """Tells of each invoice, and of each account that has none for a reason; how many those are."""
    after, failures = "", 0
    while page := await accounts(connection, after=after, limit=_PAGE):
        for account in page:
            try:
                while invoice := await finalize_one(connection, actor, account.name, now, grace):
                    made(invoice)
            except NotDone as refused:
                failures += 1
                failed(account.name, refused.detail)
        after = page[-1].name
    return failures
