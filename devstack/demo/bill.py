"""The last step: a draft of the bill for all clients of the tour, as a page and a PDF for who may read it."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx

from devstack.demo.sentiment_page import field_of
from devstack.demo.steps import Outcome, Step, Tour
from ext_authz.billing.accounts import Account, Subscription, allow_reader, assign, create, subscribe
from ext_authz.billing.invoices import bill_at
from ext_authz.billing.model import Bill
from ext_authz.billing.prices import read_prices
from ext_authz.billing.published import publish
from ext_authz.db.postgres import connect
from ext_authz.decision import Reason
from ext_authz.tokens.model import Actor

_PRICES = Path(__file__).parents[1] / "stack" / "prices.yaml"
_ACCOUNT, _READER = "tour", "dave"
_SECONDS = 20.0
"""Until every access log is in Postgres."""


def billed(tour: Tour) -> Outcome:
    """The draft counts what the callers counted: calls by client, and answers by model."""
    sent = {client: count for (client, why), count in tour.caller.sent.items() if client and why == Reason.ALLOWED}
    reader = tour.provider.subject(tour.provider.login(_READER))
    asyncio.run(_open(tour, sorted({client for client, _ in tour.caller.sent if client}), reader))
    deadline = time.monotonic() + _SECONDS
    while (counted := _by_client(bill := asyncio.run(_draft(tour)))) != sent and time.monotonic() < deadline:
        time.sleep(0.1)
    if counted != sent:
        return Outcome(f"sent {sent}, on the bill {counted}")
    lines = {
        name: sum(line.quantity for line in bill.lines if line.name == name) for name in ("Sentiment", "Other models")
    }
    answered = tour.caller.answered
    others = sum(count for model, count in answered.items() if model != "sentiment")
    if lines != {"Sentiment": answered["sentiment"], "Other models": others}:
        return Outcome(f"the models answered {dict(answered)}, the lines have {lines}")
    return _as_read(tour, bill)


async def _open(tour: Tour, clients: list[str], reader: str) -> None:
    """An account that pays for these clients."""
    who, first = Actor(via="cli", name="demo"), datetime.now(UTC).date().replace(day=1)
    async with await connect(tour.operator.database_url) as connection, connection.transaction():
        await publish(connection, who, read_prices(_PRICES))
        await create(connection, who, Account(_ACCOUNT, "Everybody in this tour", first))
        await subscribe(connection, who, _ACCOUNT, Subscription(first, "default", "demo"))
        for client in clients:
            await assign(connection, who, _ACCOUNT, tour.stack.addresses.issuer, client, first)
        await allow_reader(connection, who, _ACCOUNT, tour.operator.issuer, reader, allowed=True)


async def _draft(tour: Tour) -> Bill:
    async with await connect(tour.operator.database_url) as connection:
        return (await bill_at(connection, _ACCOUNT, datetime.now(UTC))).bill


def _by_client(bill: Bill) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in bill.usage:
        if row.requests:
            found[row.client] = found.get(row.client, 0) + row.requests
    return found


def _as_read(tour: Tour, bill: Bill) -> Outcome:
    """What the reader's browser shows, and the PDF that it saves."""
    page = f"{tour.stack.addresses.public_url}/tollgate/bill/{_ACCOUNT}"
    with httpx.Client(follow_redirects=True, headers={"sec-fetch-site": "same-origin"}, timeout=30) as http:
        login = http.get(page)
        shown = http.post(login.url, data={"csrf": field_of(login), "username": _READER, "password": _READER})
        pdf = http.get(f"{page}/export", params={"format": "pdf"})
    total = re.search(r"Total: ([0-9.]+) EUR", shown.text)
    number, name = tempfile.mkstemp(prefix="tollgate-bill-", suffix=".pdf")
    with os.fdopen(number, "wb") as file:
        file.write(pdf.content)
    same = "equal to what was sent" if total and Decimal(total[1]) == bill.total else "another total on the page"
    document = "a PDF" if pdf.content.startswith(b"%PDF-") else f"no PDF: {pdf.status_code}"
    return Outcome(f"{same}; {document}", f"{bill.total} EUR, page {page}, PDF {name}")


STEP = Step("the bill of all of it, as a draft", "equal to what was sent; a PDF", billed)
