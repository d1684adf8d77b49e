"""Budgets: when they are reached, what is said of it and to whom, and which settings it takes."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from ext_authz.billing.alerts import Alert, event, mail
from ext_authz.billing.budget_commands import budgets
from ext_authz.billing.budgets import Budget
from ext_authz.billing.delivery import Delivery, signature
from ext_authz.billing.model import Span
from ext_authz.billing.stops import counters
from ext_authz.budget_settings import BudgetSettings, MailServer
from tests.unit.billing.bills import bill, plan

KEY = f"whsec_{b64encode(bytes(range(32))).decode()}"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ALERT = Alert(
    id=UUID(int=7), account="acme", title="Acme Ltd.", start=NOW - timedelta(days=15), end=NOW + timedelta(days=15),
    budget=Decimal("99.50"), threshold=80, target="pay@acme.example", total=Decimal("80.25"), currency="EUR",
    made_at=NOW, tries=0,
)  # fmt: skip
GOOD = {
    "budget_webhook": "https://hooks.example/secret",
    "budget_webhook_key": KEY,
    "smtp_url": "smtps://user:pass%40word@mail.example",
    "smtp_from": "tollgate@models.example",
}


def test_a_threshold_is_reached_at_its_share_to_the_cent() -> None:
    budget = Budget("acme", Decimal("99.99"), (50, 80, 100, 120), (), stops=True)
    cases = {"49.99": 0, "50.00": 1, "79.99": 1, "80.00": 2, "99.98": 2, "99.99": 3, "119.98": 3, "119.99": 4}
    assert {total: len(budget.reached(Decimal(total))) for total in cases} == cases
    assert [budget.is_used_up(Decimal(total)) for total in ("99.98", "99.99")] == [False, True]


def test_a_budget_that_was_removed_is_reached_by_nothing() -> None:
    budget = Budget("acme", None, (50,), (), stops=True)
    assert budget.reached(Decimal(10**9)) == ()
    assert not budget.is_used_up(Decimal(10**9))


def test_a_webhook_gets_a_cloud_event_with_the_signature_of_standard_webhooks() -> None:
    assert json.loads(event(ALERT)) == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000007",
        "time": "2026-11-30T12:00:00.000Z",
        "source": "/tollgate/billing",
        "type": "tollgate.budget.reached",
        "subject": "account:acme",
        "data": {
            "account": "acme",
            "title": "Acme Ltd.",
            "period_start": "2026-11-15T12:00:00.000Z",
            "period_end": "2026-12-15T12:00:00.000Z",
            "threshold": 80,
            "budget": "99.50",
            "total": "80.25",
            "currency": "EUR",
        },
    }
    # The example of the specification.
    body = b'{"event_type":"ping","data":{"success":true}}'
    found = signature(b64decode("plJ3nmyCDGBKInavdOK15jsl"), "msg_loFOjxBNrRLzqYUf", body, 1731705121.9)
    assert found["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    assert (found["webhook-id"], found["webhook-timestamp"]) == ("msg_loFOjxBNrRLzqYUf", "1731705121")


def test_a_mail_says_it_in_one_sentence_and_is_the_same_when_it_is_sent_again() -> None:
    message = mail(ALERT, "tollgate@models.example")
    assert message["Subject"] == "Acme Ltd.: 80 % of the budget is used"
    assert (message["From"], message["To"]) == ("tollgate@models.example", "pay@acme.example")
    assert "has used 80.25 EUR of its budget of 99.50 EUR" in message.get_content()
    assert mail(ALERT, "tollgate@models.example").as_bytes() == message.as_bytes()


def test_clients_are_refused_that_the_account_pays_for_now_by_both_of_their_names() -> None:
    day = timedelta(days=1)
    spans = (
        Span("https://id.example", "shop", NOW, NOW + day),
        Span("https://id.example", "gone", NOW - day, NOW),
        Span("https://id.example", "later", NOW + day, NOW + 2 * day),
        Span("https://elsewhere.example", "x", NOW - day, NOW + day),
    )
    found = counters(replace(bill({}, plan()), clients=spans), NOW, {"https://id.example": "main"})
    assert found == ["budget\x1fmain:shop", "budget\x1fmain:tollgate:shop"]


def test_settings() -> None:
    settings = BudgetSettings.model_validate(GOOD)
    assert settings.mail_server == MailServer(
        "mail.example", 465, tls=True, user="user", password="pass@word", sender="tollgate@models.example"
    )
    assert settings.webhook == ("https://hooks.example/secret", bytes(range(32)))
    starttls = BudgetSettings.model_validate(GOOD | {"smtp_url": "smtp://mail.example"}).mail_server
    assert starttls is not None
    assert (starttls.port, starttls.tls, starttls.user, starttls.is_here) == (587, False, "", False)
    unset = BudgetSettings.model_validate({})
    assert (unset.webhook, unset.mail_server, unset.budgets_every) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("budget_webhook", "http://hooks.example", "https://host/path"),
        ("budget_webhook_key", "secret", "24 to 64 bytes in base64"),
        ("budget_webhook_key", "whsec_AAAA", "24 to 64 bytes in base64"),
        ("budget_webhook_key", None, "go together"),
        ("smtp_url", "https://mail.example", "is not a URL of the form smtps://"),
        ("smtp_url", "smtps://user@mail.example", "a user or a password without the other"),
        ("smtp_url", None, "go together"),
        ("smtp_from", "Tollgate <tollgate@models.example>", "is not an address"),
        ("smtp_from", "a@b\nBcc: c@d", "is not an address"),
        ("budgets_every", 0.5, "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match="validation error") as refused:
        BudgetSettings.model_validate({**GOOD, name: value})
    assert words in str(refused.value)
    assert "secret@" not in str(refused.value)


async def test_an_alert_without_somebody_to_take_it_says_what_to_set() -> None:
    delivery = Delivery(BudgetSettings.model_validate({}))
    assert "TOLLGATE_SMTP_URL" in await delivery.send(ALERT)
    assert "TOLLGATE_BUDGET_WEBHOOK" in await delivery.send(replace(ALERT, target="webhook"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("acme", "0"), "write an amount above 0"),
        (("acme", "NaN"), "write an amount above 0"),
        (("acme", "Infinity"), "write an amount above 0"),
        (("acme", "1e15"), "write an amount above 0"),
        (("acme", "0.00001"), "write an amount above 0"),
        (("acme", "five"), "write an amount above 0"),
        (("acme", "5", "--alert", "0"), "not in the range"),
        (("acme", "5", "--mail", "a@b\r\nBcc: c@d"), "write an address"),
        (("acme", "5", *(f"--alert={each}" for each in range(1, 12))), "at most 10 of each"),
        (("a b", "5"), "lower-case letter"),
    ],
)
def test_what_can_be_no_budget(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(budgets, ["set", *arguments])
    assert result.exit_code != 0
    assert words in result.output + str(result.exception)
