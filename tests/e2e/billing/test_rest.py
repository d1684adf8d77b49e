"""Readers of an account see its bills, take them as files, and see the calls behind a line. Nobody else does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.api.world import World, admin, alice, bob, world_of
from tests.e2e.billing.world import Books, copied, pay
from tests.tokens import ALICE

HERE = "/billing/accounts/acme/bills"
NOW = datetime.now(UTC)


class Paid:
    """Alice reads `acme`, whose client is `shop`."""

    def __init__(self, world: World, books: Books) -> None:
        self.world = world
        self.books = books

    async def get(self, path: str, token: str = "") -> Any:  # noqa: ANN401 - JSON
        answer = await self.world.rest("GET", path, token or alice())
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def paid(postgres_server: str, published: Books, redis_url: str, tmp_path: Path) -> AsyncIterator[Paid]:
    with copied(postgres_server, published.database_url) as url:
        pay(url, "acme", ALICE, "shop")
        async with world_of(url, redis_url, tmp_path) as world:
            yield Paid(world, Books(url, tmp_path))


async def test_a_draft_and_its_files(paid: Paid) -> None:
    paid.books.call(NOW.isoformat()[:19], 5)
    found = await paid.get("/billing/accounts")
    assert [each["account"] for each in found["accounts"]] == ["acme"]
    bill = await paid.get(f"{HERE}/current")
    assert (bill["status"], bill["number"], bill["total"], bill["currency"]) == ("draft", 0, "11.00", "EUR")
    assert [(line["name"], line["quantity"], line["amount"]) for line in bill["lines"]] == [
        ("Fee", "1", "10.00"), ("Sentiment", "3", "0.00"), ("Sentiment", "2", "1.00"),
    ]  # fmt: skip
    assert await paid.get(f"{HERE}/{NOW.date()}") == bill
    for form, begin in {"json": b"{", "csv": b"line,", "focus": b"BillingAccountId,", "pdf": b"%PDF-"}.items():
        answer = await paid.world.rest("GET", f"{HERE}/current/export?format={form}", alice())
        assert answer.content.startswith(begin)
        assert answer.headers["cache-control"] == "no-store"
        assert f'filename="acme-{NOW:%Y-%m}-01-draft.' in answer.headers["content-disposition"]


async def test_the_calls_of_a_line_in_pages_and_without_who_called(paid: Paid) -> None:
    calls = paid.books.call(NOW.isoformat()[:19], 5, subject="somebody")
    paid.books.call(NOW.isoformat()[:19], 2, model="cars", subject="somebody")
    seen, cursor = [], ""
    for _ in range(9):
        query = f"?limit=2&cursor={cursor}" if cursor else "?limit=2"
        page = await paid.get(f"{HERE}/current/lines/3/calls{query}")
        assert "somebody" not in str(page)
        seen += [each["decision_id"] for each in page["calls"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert seen == sorted(calls)
    assert (await paid.get(f"{HERE}/current/lines/1/calls"))["calls"] == []
    missing = await paid.world.rest("GET", f"{HERE}/current/lines/9/calls", alice())
    assert missing.status_code == 404


async def test_final_invoices_in_pages(paid: Paid) -> None:
    ends = [NOW.date().replace(day=1)]
    for _ in range(3):
        ends.append((ends[-1] - timedelta(days=1)).replace(day=1))
    paid.books.sql("UPDATE billing_accounts SET anchor = %s", (ends[-1],))
    paid.books.sql("UPDATE billing_subscriptions SET since = '2026-01-01'")
    await asyncio.to_thread(paid.books.tollgate, "finalize", "--all", "--grace", "1s")
    first = await paid.get(f"{HERE}?limit=2")
    assert [each["number"] for each in first["bills"]] == [3, 2]
    second = await paid.get(f"{HERE}?limit=2&cursor={first['cursor']}")
    assert ([each["number"] for each in second["bills"]], second["cursor"]) == ([1], "")
    bill = await paid.get(f"{HERE}/2")
    assert (bill["status"], bill["number"], len(bill["hash"])) == ("final", 2, 64)
    assert (await paid.world.rest("GET", f"{HERE}/7", alice())).status_code == 404


async def test_the_invoice_of_another_account_is_not_there(paid: Paid) -> None:
    """Though its number is known, and one may read an account."""
    await asyncio.to_thread(paid.books.account, "bolt")
    await asyncio.to_thread(paid.books.tollgate, "finalize", "bolt")
    for path in (f"{HERE}/1", f"{HERE}/1/export", f"{HERE}/1/lines/1/calls"):
        found, missing = [await paid.world.rest("GET", each, alice()) for each in (path, path.replace("/1", "/9", 1))]
        assert (found.status_code, found.json()["detail"]) == (404, "there is no invoice 1")
        assert missing.status_code == 404


async def test_nobody_else_learns_of_an_account(paid: Paid) -> None:
    """The same answer as for one that does not exist; also to users of its client, who are not who pays."""
    others = bob(), bob(azp="shop"), alice(sub="22222222-0000-4000-8000-0000000000ff", azp="shop")
    for path in ("", "/current", "/current/export?format=pdf", "/current/lines/1/calls"):
        for token in others:
            found = await paid.world.rest("GET", f"{HERE}{path}", token)
            missing = await paid.world.rest("GET", f"{HERE.replace('acme', 'nobody')}{path}", token)
            assert (found.status_code, found.content) == (404, missing.content), path
        assert (await paid.world.rest("GET", f"{HERE}{path}", admin())).status_code == 200
    assert (await paid.get("/billing/accounts", bob()))["accounts"] == []


async def test_an_api_token_takes_the_scope(paid: Paid) -> None:
    async def token(*scopes: str) -> str:
        body = {"name": uuid.uuid4().hex[:8], "lifetime": 86_400, "scopes": list(scopes)}
        answer = await paid.world.rest("POST", "/grants", alice(), body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    assert (await paid.get(f"{HERE}/current", await token("tollgate:billing")))["account"] == "acme"
    refused = await paid.world.rest("GET", f"{HERE}/current", await token("tollgate:tokens"))
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_missing")


WRONG = {
    400: [
        *("/yesterday", "/9999-12-31", "/2026-13-01", "/0", "?limit=0", "?cursor=x"),
        *("/current/export?format=exe", "/current/lines/0/calls"),
    ],
    404: ["/2000-01-01", "/99", "/current/lines/99/calls"],
}


async def test_a_wrong_request_is_said(paid: Paid) -> None:
    for status, paths in WRONG.items():
        for path in paths:
            answer = await paid.world.rest("GET", f"{HERE}{path}", alice())
            assert (answer.status_code, answer.json()["code"]) == (
                status, {400: "invalid", 404: "not_found"}[status]
            ), path  # fmt: skip
