"""Budgets of accounts in Postgres, what of them was used, and who is to be told.

A look at a budget is one transaction that locks its row: of several usage workers one does it, and another takes over
from one that was killed. docs/adr/0065-budgets.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import LiteralString

from msgspec import Struct

from ext_authz.billing.accounts import account_named
from ext_authz.billing.invoices import NEEDS as DRAFT_NEEDS
from ext_authz.billing.model import Bill
from ext_authz.db.postgres import Connection
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor, NotDone, Why

CHANGING = {
    "audit_log": ("INSERT",),
    "billing_accounts": ("SELECT",),
    "billing_budgets": ("SELECT", "INSERT", "UPDATE"),
}
NEEDS = {
    **DRAFT_NEEDS,
    "billing_budgets": ("SELECT", "UPDATE"),
    "billing_alerts": ("SELECT", "INSERT", "UPDATE"),
    "billing_stops": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""Of the usage worker, where it looks after budgets."""
MOST_THRESHOLDS = MOST_ADDRESSES = 10
LOG, WEBHOOK = "log", "webhook"
"""Targets besides addresses of mail."""

_SET: LiteralString = """
INSERT INTO billing_budgets (account, amount, thresholds, mail, stops) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (account) DO UPDATE SET amount = excluded.amount, thresholds = excluded.thresholds, mail = excluded.mail,
    stops = excluded.stops, looked_at = '-infinity'
"""
_REMOVE: LiteralString = """
UPDATE billing_budgets SET amount = NULL, stops = false, looked_at = '-infinity'
WHERE account = %s AND amount IS NOT NULL
"""
_LIST: LiteralString = """
SELECT account, amount, thresholds, mail, stops FROM billing_budgets
WHERE amount IS NOT NULL AND account > %s ORDER BY account LIMIT %s
"""
_OF: LiteralString = "SELECT amount, stops FROM billing_budgets WHERE account = %s AND amount IS NOT NULL"
_CLAIM: LiteralString = """
UPDATE billing_budgets SET looked_at = now() WHERE account = (
    SELECT account FROM billing_budgets AS held
    WHERE looked_at <= now() - make_interval(secs => %s) AND (
        amount IS NOT NULL OR EXISTS (SELECT FROM billing_stops AS stopped WHERE stopped.account = held.account))
    ORDER BY looked_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING account, amount, thresholds, mail, stops
"""
_ALERT: LiteralString = """
INSERT INTO billing_alerts (account, period_start, period_end, budget, threshold, target, total, currency, sent_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s THEN now() END) ON CONFLICT DO NOTHING
"""
_STOP: LiteralString = """
INSERT INTO billing_stops (account, counter, until) VALUES (%s, %s, %s)
ON CONFLICT (account, counter) DO UPDATE SET until = excluded.until, lifted = false
"""
_LIFT: LiteralString = "UPDATE billing_stops SET lifted = true WHERE account = %s AND counter <> ALL(%s)"


class Budget(Struct, frozen=True):
    """What an account wants to pay at most in a billing period."""

    account: str
    amount: Decimal | None
    """In the currency of its bill; None: there is none any more."""
    thresholds: tuple[int, ...]
    """In percent: who is told, is told of each once in a period."""
    mail: tuple[str, ...]
    stops: bool
    """Whether calls are refused when it is used up."""

    def reached(self, total: Decimal) -> tuple[int, ...]:
        """The thresholds that this total has reached."""
        amount = self.amount
        return () if amount is None else tuple(each for each in self.thresholds if total * 100 >= amount * each)

    def is_used_up(self, total: Decimal) -> bool:
        return self.amount is not None and total >= self.amount


class Used(Struct, frozen=True):
    """What is told of a budget to who pays."""

    amount: Decimal
    percent: int
    """That the total is of it, rounded down."""
    stops: bool


async def put(connection: Connection, actor: Actor, budget: Budget) -> None:
    """In a transaction, in place of the one before. Raises NotDone."""
    await account_named(connection, budget.account)
    thresholds, mail = list(budget.thresholds), list(budget.mail)
    await connection.execute(_SET, (budget.account, budget.amount, thresholds, mail, budget.stops))
    details = {"amount": budget.amount, "thresholds": thresholds, "mail": mail, "stops": budget.stops}
    await audit.record(connection, actor, "account.budget", f"account:{budget.account}", details)


async def remove(connection: Connection, actor: Actor, account: str) -> None:
    """In a transaction. Raises NotDone."""
    await account_named(connection, account)
    if not (await connection.execute(_REMOVE, (account,))).rowcount:
        raise NotDone(Why.CONFLICT, f"{account} has no budget", "account")
    await audit.record(connection, actor, "account.budget", f"account:{account}", {"amount": None})


async def budgets(connection: Connection, *, after: str = "", limit: int) -> list[Budget]:
    """By account, after this one."""
    return [_budget(row) for row in await (await connection.execute(_LIST, (after, limit))).fetchall()]


async def used_of(connection: Connection, bill: Bill) -> Used | None:
    """None: the account has no budget."""
    for amount, stops in await (await connection.execute(_OF, (bill.account,))).fetchall():
        return Used(amount, int(bill.total * 100 / amount), stops)
    return None


async def claim(connection: Connection, every: float) -> Budget | None:
    """One that nobody has looked at for so many seconds; nobody else does until the transaction ends."""
    rows = await (await connection.execute(_CLAIM, (every,))).fetchall()
    return _budget(rows[0]) if rows else None


async def note_alerts(connection: Connection, budget: Budget, bill: Bill, *, webhook: bool) -> tuple[int, ...]:
    """Whoever has not been told yet will be; the thresholds that are new."""
    targets = (LOG, *[WEBHOOK] * webhook, *budget.mail)
    found = []
    for threshold in budget.reached(bill.total):
        about = (bill.account, bill.start, bill.end, budget.amount, threshold)
        for target in targets:
            values = (*about, target, bill.total, bill.terms.currency, target == LOG)
            made = await connection.execute(_ALERT, values)
            if made.rowcount and target == LOG:
                found.append(threshold)
    return tuple(found)


async def note_stops(connection: Connection, account: str, counters: Sequence[str], until: datetime | None) -> None:
    """What is to be refused until the end of the period, and nothing else of this account."""
    for counter in counters:
        await connection.execute(_STOP, (account, counter, until))
    await connection.execute(_LIFT, (account, list(counters)))


def _budget(row: Sequence[object]) -> Budget:
    account, amount, thresholds, mail, stops = row
    assert isinstance(thresholds, list)  # noqa: S101 - the columns' types
    assert isinstance(mail, list)  # noqa: S101
    return Budget(
        str(account), amount if isinstance(amount, Decimal) else None, tuple(thresholds), tuple(mail), bool(stops)
    )
