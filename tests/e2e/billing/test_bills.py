"""From calls in the ledger to final invoices: what is on them, what comes late, and that nothing in them changes."""

from __future__ import annotations

import asyncio
import csv
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from ext_authz.billing.invoices import NEEDS, finalize
from ext_authz.db.postgres import connect
from ext_authz.tokens.model import Actor
from tests.e2e.billing.world import ISS, PRICES, Books
from tests.postgres_roles import role
from tests.unit.policy.writing import GOOD, write

FEE = ("fee", "Fee", "1", "10.00")
REFUSED = (
    (("draft", "nobody"), "there is no billing account 'nobody'"),
    (("draft", "acme", "--at", "2025-12-31"), "the first period of acme begins on 2026-01-01"),
    (("show", "7"), "there is no invoice 7"),
    (("export", "9" * 30), "there is no invoice with such a number"),
    (("list", "nobody"), "there is no billing account 'nobody'"),
    (("finalize", "nobody"), "there is no billing account 'nobody'"),
    (("accounts", "create", "acme", "--title", "x"), "there is a billing account 'acme' already"),
    (("accounts", "subscribe", "acme", "gold", "--prices", "standard"), "has no plan 'gold': it has default"),
    (("accounts", "subscribe", "acme", "default", "--prices", "none"), "there is no price list 'none' for"),
    (("accounts", "add-client", "nobody", "x", "--issuer", ISS), "there is no billing account 'nobody'"),
    (("accounts", "remove-reader", "acme", "x", "--issuer", "kc"), "is no reader of it"),
)
"""Commands about what is not there, and what they say."""


def test_a_draft_has_the_calls_of_its_period_and_changes_with_them(books: Books) -> None:
    books.account("acme", "shop", "app")
    books.call("2026-01-31T23:59:59.999", 9)  # the period before
    books.call("2026-02-01T00:00:00", 4)
    books.call("2026-02-28T23:59:59.999", 1, client="app", model="cars")
    books.call("2026-03-01T00:00:00", 9)  # the one after
    books.call("2026-02-10T00:00:00", 5, client="another")
    books.call("2026-02-10T00:00:00", 5, issuer="https://elsewhere.example")
    expected = [FEE, ("usage", "Sentiment", "3", "0.00"), ("usage", "Sentiment", "1", "0.50")]
    assert books.lines("acme", "2026-02-15") == [*expected, ("usage", "Other calls", "1", "0.25")]
    assert books.document("acme", "2026-02-15")["bill"]["total"] == "10.75"
    books.call("2026-02-10T00:00:00", 1)
    assert books.document("acme", "2026-02-15")["bill"]["total"] == "11.25"
    table = books.tollgate("draft", "acme", "--at", "2026-02-15")
    assert table.startswith("draft: Acme Ltd. (acme), 2026-02-01T00:00Z to 2026-03-01T00:00Z, plan default\n")
    assert table.endswith("\ntotal: 11.25 EUR\n")


def test_only_what_a_model_did_is_billed_and_the_rest_is_on_the_bill(books: Books) -> None:
    books.account("acme", "shop")
    cases = {200: "served", 404: "client_error", 500: "server_error", 504: "timeout", 0: "client_gone"}
    for status in cases:
        books.call("2026-02-10", 2, status=status)
    books.call("2026-02-10", 2, status=None)
    books.call("2026-02-10", 2, reason="over_limit", status=None)
    books.call("2026-02-10", 2, reason="forbidden", status=None)
    usage = books.document("acme", "2026-02-15")["bill"]["usage"]
    assert {(row["outcome"], row["calls"], row["requests"]) for row in usage} == {
        ("served", 2, 2), ("client_error", 2, 0), ("server_error", 2, 0), ("timeout", 2, 0), ("client_gone", 2, 2),
        ("unsettled", 2, 0), ("rate_limited", 2, 0), ("denied", 2, 0),
    }  # fmt: skip
    billed = [("usage", "Sentiment", "3", "0.00"), ("usage", "Sentiment", "1", "0.50")]
    assert books.lines("acme", "2026-02-15") == [FEE, *billed]


def test_billing_days_are_those_of_the_account_that_pays_today(books: Books, tmp_path: Path) -> None:
    books.account("acme", "shop", "gone", anchor="2026-01-31")
    books.account("bolt", "app", anchor="2026-02-01")
    books.tollgate("accounts", "add-client", "bolt", "gone", "--issuer", ISS, "--since", "2026-03-01")
    books.tollgate("accounts", "add-client", "acme", "elsewhere", "--issuer", "https://other.example")
    books.tollgate("accounts", "add-client", "acme", "app", "--issuer", ISS, "--since", "8000-01-01")
    anchored = "  month: {key: [client], rate: 5/month, algorithm: calendar, anchor: billing}\nmodels:"
    policy = write(tmp_path, GOOD.replace("models:", anchored, 1))
    environ = {"TOLLGATE_POLICY": str(policy)}
    printed = books.run("accounts", "days", environ=environ).output
    assert printed == 'billing_days:\n  demo:\n    "shop": 31\n'
    differ = books.run("accounts", "days", "--check", environ=environ)
    assert (differ.exit_code, differ.output) == (1, "demo:shop: its periods begin on day 31, its quotas on day 1\n")
    write(tmp_path, policy.read_text() + printed)
    assert books.run("accounts", "days", "--check", environ=environ).exit_code == 0
    assert "TOLLGATE_POLICY: name the policy" in str(books.run("accounts", "days").exception)


def test_a_client_is_billed_to_whoever_has_it_on_that_day(books: Books) -> None:
    books.account("acme", "shop")
    books.account("bolt")
    books.tollgate("accounts", "add-client", "bolt", "shop", "--issuer", ISS, "--since", "2026-02-10")
    books.tollgate("accounts", "remove-client", "shop", "--issuer", ISS, "--since", "2026-02-20")
    books.call("2026-02-09T23:59:59", 1)
    books.call("2026-02-10T00:00:00", 2)
    books.call("2026-02-20T00:00:00", 4)
    assert books.lines("acme", "2026-02-15")[1:] == [("usage", "Sentiment", "1", "0.00")]
    assert books.lines("bolt", "2026-02-15")[1:] == [("usage", "Sentiment", "2", "0.00")]
    found = json.loads(books.tollgate("accounts", "unassigned", "--since", "2026-02-01", "--format", "json"))
    assert found == [{"issuer": ISS, "client": "shop", "requests": 4}]


def test_calls_with_api_tokens_are_billed_by_their_owner_whatever_the_token_is_called(books: Books) -> None:
    """Its name is free: nobody can put calls on another's bill by it, or take them off their own."""
    books.account("acme", "shop", "tollgate:shop", "service:batch")
    books.call("2026-02-10", 5, client="tollgate:shop", subject="mallory")
    assert books.lines("acme", "2026-02-15") == [FEE]
    books.call("2026-02-10", 2, client="tollgate:anything", subject="service:batch")
    assert books.lines("acme", "2026-02-15")[1:] == [("usage", "Sentiment", "2", "0.00")]
    assert [row["client"] for row in books.document("acme", "2026-02-15")["bill"]["usage"]] == ["service:batch"]


def test_a_final_invoice_never_changes_and_what_comes_late_is_on_the_next(books: Books) -> None:
    books.account("acme", "shop")
    books.call("2026-01-10", 5)
    unsettled = books.call("2026-01-11", 2, status=None)
    assert books.tollgate("finalize", "acme", "--by", "dora").startswith("1: acme, 2026-01-01T00:00Z to 2026-02-01")
    first = books.tollgate("export", "1")
    books.settle(unsettled)
    late = books.call("2026-01-12", 1)
    books.call("2026-02-10", 1)
    assert books.tollgate("export", "1") == first
    assert books.document("acme", "2026-01-20") == json.loads(first)
    expected = [FEE, ("usage", "Sentiment", "1", "0.00"), ("adjustment", "Sentiment", "3", "1.50")]
    assert books.lines("acme", "2026-02-20") == expected
    assert books.lines("acme", "2026-03-20") == [FEE]  # it stands on the first bill that is not final, once
    books.tollgate("finalize", "acme")
    assert books.lines("2") == expected
    assert books.lines("acme", "2026-03-20") == [FEE]
    books.call("2026-01-13", 1)
    assert books.lines("acme", "2026-03-20") == [FEE, ("adjustment", "Sentiment", "1", "0.50")]
    explained = json.loads(books.tollgate("explain", "2", "3", "--format", "json"))
    assert {call["decision_id"] for call in explained} >= {*unsettled, *late}
    assert len(books.tollgate("verify").strip()) == len("2:") + 64


def test_a_line_is_explained_by_its_calls(books: Books) -> None:
    books.account("acme", "shop")
    calls = books.call("2026-02-10", 5)
    books.call("2026-02-10", 3, status=500)
    others = books.call("2026-02-11", 2, model="cars")
    lines = books.lines("acme", "2026-02-15")
    assert [line[1] for line in lines] == ["Fee", "Sentiment", "Sentiment", "Other calls"]

    def explained(line: int, *options: str) -> list[str]:
        printed = books.tollgate("explain", "acme", str(line), "--at", "2026-02-15", "--format", "csv", *options)
        return [row["decision_id"] for row in csv.DictReader(printed.splitlines())]

    assert explained(1) == []
    assert sorted(explained(2)) == sorted(explained(3)) == sorted(calls)
    assert explained(4) == sorted(others)
    assert len(explained(3, "--limit", "2")) == 2
    refused = books.run("explain", "acme", "5", "--at", "2026-02-15")
    assert str(refused.exception) == "there is no line 5: it has lines 1 to 4"


def test_periods_are_finalized_one_after_the_other_and_only_when_they_are_over(books: Books) -> None:
    month = datetime.now(UTC).date().replace(day=1)
    before = (month - timedelta(1)).replace(day=1)
    books.account("acme", anchor=str(before))
    assert books.run("finalize", "acme", "--grace", "3650d").exit_code == 1
    assert books.tollgate("finalize", "acme", "--grace", "1s").startswith(f"1: acme, {before}T00:00Z")
    again = books.run("finalize", "acme")
    assert (again.exit_code, again.stderr) == (1, "acme: no period without an invoice has ended\n")
    (row,) = json.loads(books.tollgate("list", "acme", "--format", "json"))
    assert (row["number"], row["total"], row["period"]) == (1, "10.00", f"{before}/{month}")


def test_all_accounts_at_once_and_one_that_cannot_be_billed_stops_no_other(books: Books) -> None:
    books.account("acme", anchor="2026-08-01")
    books.tollgate("accounts", "create", "bolt", "--title", "Bolt", "--anchor", "2026-08-01")
    books.account("core", anchor="2026-09-01")
    result = books.run("finalize", "--all")
    assert (result.exit_code, result.stderr) == (
        1, "bolt: bolt has no plan on 2026-08-01: tollgate bill accounts subscribe bolt PLAN --since 2026-08-01\n"
    )  # fmt: skip
    found = books.sql("SELECT account, to_char(period_start, 'MM') FROM invoices WHERE number <= 5 ORDER BY number")
    assert ("acme", "08") in found
    assert set(books.sql("SELECT DISTINCT account FROM invoices")) == {("acme",), ("core",)}
    assert str(books.run("finalize").exception) == "write the name of an account, or --all"


async def test_numbers_have_no_gap_under_concurrency_and_failures(books: Books) -> None:
    for name in ("acme", "bolt", "core"):
        await asyncio.to_thread(books.account, name)
    now = datetime(2026, 9, 2, tzinfo=UTC)

    async def make(name: str, *, fails: bool) -> None:
        async with await connect(books.database_url) as connection:
            try:
                async with connection.transaction():
                    made = await finalize(connection, Actor(via="cli", name="test"), name, now)
                    if fails or made is None:
                        raise ZeroDivisionError  # noqa: TRY301 - rolls back
            except ZeroDivisionError:
                pass

    tries = [make(name, fails=number % 3 == 1) for number in range(12) for name in ("acme", "bolt", "core")]
    await asyncio.gather(*tries)
    found = books.sql("SELECT number, account, period_start FROM invoices ORDER BY number")
    assert [number for number, *_ in found] == list(range(1, 25))
    for name in ("acme", "bolt", "core"):
        months = [start.month for _, account, start in found if account == name]
        assert months == list(range(1, 9))
    assert (await asyncio.to_thread(books.tollgate, "verify")).startswith("24:")


def test_what_a_final_invoice_was_made_from_cannot_be_changed(books: Books) -> None:
    books.account("acme", "shop")
    books.account("bolt", "app")
    books.tollgate("finalize", "acme")
    for command in (
        ("add-client", "acme", "app", "--issuer", ISS, "--since", "2026-01-31"),
        ("add-client", "bolt", "shop", "--issuer", ISS, "--since", "2026-01-31"),
        ("remove-client", "shop", "--issuer", ISS, "--since", "2026-01-31"),
        ("subscribe", "acme", "default", "--prices", "standard", "--since", "2026-01-31"),
    ):
        refused = books.run("accounts", *command)
        assert str(refused.exception).startswith("the invoices of acme are final up to 2026-02-01: choose"), command
    books.tollgate("accounts", "add-client", "bolt", "shop", "--issuer", ISS, "--since", "2026-02-01")


def test_a_price_list_is_published_once_and_the_one_of_the_first_day_counts(books: Books) -> None:
    books.account("acme")
    assert books.publish() == "standard from 2026-01-01: is published already\n"
    refused = books.run("prices", "publish", _file(books, PRICES.replace("fee: 10", "fee: 11")))
    assert "no list is ever changed: choose another day" in str(refused.exception)
    books.publish(PRICES.replace("2026-01-01", "2026-02-02").replace("fee: 10", "fee: 12"))
    totals = [books.document("acme", f"2026-{month}-15")["bill"]["total"] for month in ("01", "02", "03")]
    assert totals == ["10.00", "10.00", "12.00"]
    listed = json.loads(books.tollgate("prices", "list", "--format", "json"))
    assert [row["valid_from"] for row in listed] == ["2026-02-02", "2026-01-01"]


def _file(books: Books, text: str) -> str:
    path = books._directory / "other.yaml"
    path.write_text(text)
    return str(path)


def test_what_cannot_be_done_is_said_in_one_sentence(books: Books) -> None:
    books.account("acme")
    for arguments, said in REFUSED:
        assert said in str(books.run(*arguments).exception), arguments


def test_an_account_without_a_plan_has_no_bill(books: Books) -> None:
    books.tollgate("accounts", "create", "acme", "--title", "Acme", "--anchor", "2026-01-01")
    refused = books.run("draft", "acme", "--at", "2026-02-02")
    assert str(refused.exception) == (
        "acme has no plan on 2026-02-01: tollgate bill accounts subscribe acme PLAN --since 2026-02-01"
    )


def test_a_bill_of_a_currency_without_decimals(books: Books) -> None:
    books.publish(PRICES.replace("standard", "yen").replace("EUR", "JPY"))
    books.account("acme", "shop")
    books.tollgate("accounts", "subscribe", "acme", "default", "--prices", "yen", "--since", "2026-02-01")
    books.call("2026-02-10", 4)
    assert books.lines("acme", "2026-02-15") == [
        ("fee", "Fee", "1", "10"), ("usage", "Sentiment", "3", "0"), ("usage", "Sentiment", "1", "0"),
    ]  # fmt: skip
    assert Decimal(books.document("acme", "2026-02-15")["bill"]["total"]) == 10


def test_changes_are_in_the_audit_log(books: Books) -> None:
    books.account("acme", "shop")
    books.tollgate("accounts", "add-reader", "acme", "alice-sub", "--issuer", "kc", "--by", "dora")
    books.tollgate("finalize", "acme", "--by", "dora")
    found = books.sql("SELECT action, object, actor FROM audit_log ORDER BY position")
    assert [action for action, *_ in found] == [
        "prices.published", "account.created", "account.subscribed", "account.client", "account.reader_added",
        "invoice.finalized",
    ]  # fmt: skip
    assert found[-1] == ("invoice.finalized", "invoice:1", "dora")


def test_the_privileges_that_are_named_suffice(books: Books) -> None:
    books.account("acme", "shop")
    books.call("2026-01-10", 5)
    grants = [f"GRANT {', '.join(rights)} ON {table} TO {{role}}" for table, rights in NEEDS.items()]
    with role(books.database_url, *grants, "GRANT INSERT ON invoices, audit_log TO {role}") as url:
        limited = Books(url, books._directory)
        assert limited.lines("acme", "2026-01-15")[0] == FEE
        assert limited.tollgate("finalize", "acme").startswith("1: acme")
        assert limited.tollgate("verify").startswith("1:")
        for statement in ("UPDATE invoices SET account = 'x'", "DELETE FROM invoices", "TRUNCATE invoices"):
            with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        refused = limited.run("accounts", "create", "bolt", "--title", "x")
        assert "GRANT" in str(refused.exception)
