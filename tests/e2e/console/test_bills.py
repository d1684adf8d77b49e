"""The page about bills: what is on it, its files, and that only readers see it."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pypdf
import pytest
from click.testing import CliRunner, Result

from ext_authz.billing.commands import bill
from tests.e2e.billing.world import Books, pay
from tests.e2e.console.world import Console, Person, owner

Visit = Callable[..., Person]


@pytest.fixture
def account(console: Console, visit: Visit, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Frank reads it; six calls of its client this month, one of them failed."""
    visit("frank")
    name, client = f"acme-{uuid.uuid4().hex[:8]}", f"shop-{uuid.uuid4().hex[:8]}"
    pay(console.database_url, name, owner(console, "frank"), client)
    books = Books(console.database_url, tmp_path_factory.mktemp("books"))
    now = datetime.now(UTC).isoformat()[:19]
    books.call(now, 5, client=client)
    books.call(now, 1, client=client, status=500)
    return name


def test_a_reader_sees_lines_days_and_files(console: Console, visit: Visit, account: str) -> None:
    frank = visit("frank")
    page = frank.get(f"/bill/{account}")
    assert page.status_code == 200
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page.text))
    assert "Total: 11.00 EUR" in text
    assert "Sentiment included 3 0 per request 0.00 Sentiment 2 0.5 per request 1.00" in text
    assert "6 calls from" in text
    today = datetime.now(UTC).date().isoformat()
    assert f"{today} 5 1" in text
    documents = {form: frank.get(f"/bill/{account}/export?format={form}") for form in ("json", "csv", "focus", "pdf")}
    bill = json.loads(documents["json"].content)["bill"]
    assert (bill["total"], len(bill["lines"])) == ("11.00", 3)
    assert documents["csv"].text.count("\n") == documents["focus"].text.count("\n") == 4
    assert "Total: 11.00 EUR" in pypdf.PdfReader(io.BytesIO(documents["pdf"].content)).pages[0].extract_text()
    assert account in documents["pdf"].headers["content-disposition"]


def test_a_reader_sees_how_much_of_a_budget_is_used(console: Console, visit: Visit, account: str) -> None:
    frank, books = visit("frank"), Books(console.database_url, Path())
    token = frank.token_of(frank.make(f"budget-{account}", scopes=["tollgate:billing"]))
    where = f"{console.url}/tollgate/api/v1/billing/accounts/{account}/bills"

    def answer(which: str) -> object:
        return httpx.get(f"{where}/{which}", headers={"authorization": f"Bearer {token}"}).json()["budget"]

    assert answer("current") is None
    assert "budget" not in frank.get(f"/bill/{account}").text
    books.tollgate("budgets", "set", account, "12.50", "--stop")
    assert answer("current") == {"amount": "12.50", "used": 88, "stops": True}
    assert answer((datetime.now(UTC) + timedelta(days=40)).date().isoformat()) is None, "not of another period"
    assert "88 % of the budget of 12.50 EUR. From 100 % on, calls are refused" in frank.get(f"/bill/{account}").text
    shown = CliRunner().invoke(bill, ["mine", account, "--url", console.url, "--jwt", "-"], input=token)
    assert shown.stdout.endswith("total: 11.00 EUR\n88 % of the budget of 12.50 EUR\n")
    books.tollgate("budgets", "set", account, "11")
    assert "100 % of the budget of 11 EUR.</p>" in frank.get(f"/bill/{account}").text


def test_nobody_else_learns_of_it(visit: Visit, account: str) -> None:
    """Carol administers."""
    for person in (visit("erin"), visit("carol")):
        assert account not in person.get("/bill").text
        for path in ("", "?of=1", f"?of={datetime.now(UTC).date()}", "/export?format=pdf"):
            found, missing = person.get(f"/bill/{account}{path}"), person.get(f"/bill/nobody{path}")
            assert (found.status_code, found.content) == (404, missing.content)


WRONG = {"of=yesterday": 400, "of=9999-12-31": 400, "of=2000-01-01": 404, "of=99999999": 404, "format=exe": 400}


def test_a_wrong_address_is_said(visit: Visit, account: str) -> None:
    frank = visit("frank")
    for query, status in WRONG.items():
        assert frank.get(f"/bill/{account}/export?{query}").status_code == status, query
        assert frank.get(f"/bill/a%00b?{query}").status_code in (400, 404), query


def test_a_program_gets_its_own_bill_with_a_token_for_that(console: Console, visit: Visit, account: str) -> None:
    frank = visit("frank")
    token = frank.token_of(frank.make(f"bills-{account}", scopes=["tollgate:billing"]))

    def mine(*arguments: str, token: str = token, url: str = console.url) -> Result:
        return CliRunner().invoke(bill, ["mine", "--url", url, "--jwt", "-", *arguments], input=token)

    shown = mine(account)
    assert shown.exit_code == 0, shown.output + str(shown.exception)
    assert shown.stdout.startswith(f"draft: {account} Ltd. ({account}), ")
    assert shown.stdout.endswith("total: 11.00 EUR\n")
    assert json.loads(mine(account, "--format", "json").stdout)["bill"]["total"] == "11.00"
    for arguments, said in {
        ("nobody",): "there is no such billing account",
        (account, "--of", "99"): "there is no invoice 99",
        (account, "--of", "a/../b"): "there is no such path or method",
    }.items():
        assert said in str(mine(*arguments).exception), arguments
    assert "--url: no answer from" in str(mine(account, url="http://127.0.0.1:1").exception)
    assert "since a token is sent there" in str(mine(account, url="http://models.example").exception)
    other = frank.token_of(frank.make(f"other-{account}", scopes=["tollgate:tokens"]))
    assert "it takes the scope tollgate:billing" in str(mine(account, token=other).exception)
