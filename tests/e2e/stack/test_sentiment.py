"""The sentiment application behind the real door: both pages, feedback, refusals, on a phone, without scripts.

With SCREENSHOTS (a folder) it makes the pictures of docs/sentiment-application.md: `make screenshots`.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from devstack.stack.stack import Stack
from tests.e2e.console.test_accessibility import violations
from tests.e2e.console.test_pages import watched
from tests.e2e.console.world import browsing, running_browser
from tests.e2e.stack.conftest import token_of
from tests.realm_admin import RealmAdmin

pytestmark = pytest.mark.alone

USERS = ("load33", "load34")
"""Of this module: their quota is used up here."""
TESTER = "heidi"
TEXT = "What a wonderful day, I love it"
INFER = "/v2/models/sentiment/infer"
BODY = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]}]}


@pytest.fixture(scope="module")
def browser(stack: Stack) -> Iterator[Browser]:
    """After the stack, whose start needs asyncio."""
    assert stack
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def variants(stack: Stack) -> dict[str, str]:
    """Of each user, by what the door says; one call of their quota."""
    return {user: called(stack, user).headers["x-model-variant"] for user in USERS}


@pytest.fixture
def stable(variants: dict[str, str]) -> str:
    """Somebody whose calls version 1 answers."""
    found = [user for user, variant in variants.items() if variant == "stable"]
    if not found:
        pytest.skip("both users of this module are in the canary: one run in a hundred")
    return found[0]


def called(stack: Stack, user: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token_of(stack, user)}"}
    return httpx.post(stack.addresses.envoy + INFER, json=BODY, headers=headers, timeout=30)


def sign_in(page: Page, stack: Stack, user: str, path: str = "/sentiment/") -> None:
    """By what a person does."""
    page.goto(stack.addresses.public_url + path)
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill(user)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{stack.addresses.public_url}{path}")


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your text").fill(text)
    page.get_by_role("button", name="Ask the model").click()


def kept(stack: Stack, user: str) -> list[tuple[str, str, str, str]]:
    """Text, predicted and given label, and version of what this person said."""
    subject = jwt.decode(token_of(stack, user), options={"verify_signature": False})["sub"]
    with psycopg.connect(stack.addresses.database_url) as connection:
        query = "SELECT text, predicted, given, version FROM sentiment_feedback WHERE subject = %s ORDER BY row"
        return connection.execute(query, (subject,)).fetchall()


def command(stack: Stack, *arguments: str) -> str:
    environ = {**os.environ, "SENTIMENT_DATABASE_URL": stack.addresses.database_url}
    line = [sys.executable, "-m", "applications.sentiment", *arguments]
    return subprocess.run(line, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout


def shoot(page: Page, name: str) -> None:
    """At the width of a small phone, in the light and in the dark."""
    if folder := os.environ.get("SCREENSHOTS"):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.set_viewport_size({"width": 320, "height": 640})
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=Path(folder) / f"sentiment-{name}-{scheme}.png", full_page=True)


@pytest.mark.parametrize("scripts", [True, False])
def test_a_person_asks_and_says_whether_it_was_right(
    stack: Stack, browser: Browser, stable: str, *, scripts: bool
) -> None:
    with browsing(browser, scripts=scripts, width=320) as page:
        complaints = watched(page)
        sign_in(page, stack, stable)
        ask(page, TEXT)
        expect(page.get_by_role("heading", level=1)).to_have_text("It sounds positive")
        expect(page.locator("main")).to_contain_text("Version 1 of the model")
        page.get_by_role("button", name="Yes, positive").click()
        expect(page.get_by_role("status")).to_contain_text("Thank you")
        page.get_by_role("button", name="No, neutral").click()
        expect(page.locator("legend")).to_contain_text("You said: it is neutral")
        assert (TEXT, "positive", "neutral", "1") in kept(stack, stable)
        cookies = page.context.cookies(f"{stack.addresses.public_url}/sentiment/")
        (session,) = [each for each in cookies if each["name"] == "sentiment-app"]
        assert (session["httpOnly"], session["sameSite"]) == (True, "Lax")
        assert not [each for each in cookies if "eyJ" in each["value"]], "a token in the browser"
        assert "eyJ" not in page.content()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
        page.goto(f"{stack.addresses.public_url}/sentiment/")
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        assert complaints == []


def test_the_call_is_that_of_the_person(stack: Stack, browser: Browser, stable: str) -> None:
    """The decision on the page is one of the person and this client in the ledger."""
    with browsing(browser, width=320) as page:
        sign_in(page, stack, stable)
        ask(page, TEXT)
        decision = page.url.rpartition("/")[2]
    subject = jwt.decode(token_of(stack, stable), options={"verify_signature": False})["sub"]
    with psycopg.connect(stack.addresses.database_url) as connection:
        query = "SELECT subject, client, route, model FROM usage_events WHERE decision_id = %s"
        for _ in range(300):
            if row := connection.execute(query, (decision,)).fetchone():
                break
            connection.execute("SELECT pg_sleep(0.1)")
    assert row == (subject, "sentiment-app", "infer", "sentiment")


def subject_of(stack: Stack, user: str) -> str:
    return str(jwt.decode(token_of(stack, user), options={"verify_signature": False})["sub"])


def revoke(stack: Stack, *target: str) -> None:
    line = [sys.executable, "-m", "ext_authz", "revoke", *target, "--issuer", "demo", "--reason", "a test"]
    environ = {**os.environ, **stack.variables}
    subprocess.run(line, env=environ, text=True, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def realm(stack: Stack) -> Iterator[RealmAdmin]:
    with RealmAdmin(stack.addresses.issuer.partition("/realms/")[0]) as admin:
        yield admin


def sessions_of(realm: RealmAdmin, subject: str) -> set[str]:
    """At the identity provider, with this application in them."""
    found = realm.get(f"/users/{subject}/sessions")
    return {each["id"] for each in found if "sentiment-app" in each["clients"].values()}


@pytest.mark.parametrize("how", ["user", "session", "logout"])
def test_who_is_revoked_or_logged_out_is_out_at_the_next_page(
    stack: Stack, realm: RealmAdmin, browser: Browser, how: str
) -> None:
    """Whatever the page is: nothing is asked of a model. After a logout elsewhere the realm has told the console, which
    has revoked the session, before it answers."""
    subject = subject_of(stack, USERS[1])
    before = sessions_of(realm, subject)
    with browsing(browser, width=320) as page:
        sign_in(page, stack, USERS[1])
        (session,) = sessions_of(realm, subject) - before
        if how == "logout":
            realm.http.delete(f"/sessions/{session}").raise_for_status()
        else:
            revoke(stack, how, subject if how == "user" else session)
        page.goto(f"{stack.addresses.public_url}/sentiment/")
        expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
        page.goto(f"{stack.addresses.public_url}/sentiment/")
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_feedback_is_exported_for_training_and_deleted(stack: Stack, stable: str) -> None:
    rows = list(csv.DictReader(command(stack, "export").splitlines(keepends=True)))
    ours = [row for row in rows if row["text"] == TEXT]
    assert "neutral" in {row["label"] for row in ours}
    assert set(rows[0]) == {"text", "label", "predicted", "version", "decision_id", "at"}
    subject = jwt.decode(token_of(stack, stable), options={"verify_signature": False})["sub"]
    deleted = command(stack, "delete", "--issuer", stack.addresses.issuer, "--subject", subject)
    assert deleted == f"deleted: {len(ours)}\n"
    assert kept(stack, stable) == []


def test_version_2_is_for_testers(stack: Stack, browser: Browser, stable: str) -> None:
    with browsing(browser, width=320) as page:
        sign_in(page, stack, stable, "/sentiment/v2/")
        ask(page, TEXT)
        refused = page.get_by_role("alert")
        expect(refused).to_contain_text("Version 2 is not for you yet")
        expect(refused.locator("code")).to_have_text(re.compile("[0-9a-f-]{36}"))
        expect(page.get_by_label("Your texts")).to_have_value(TEXT)


def test_version_2_shows_probabilities_of_each_line(stack: Stack, browser: Browser) -> None:
    if "triton-canary" not in [part.name for part in stack.parts]:
        pytest.skip("version 2 of sentiment is not trained here")
    with browsing(browser, width=320) as page:
        sign_in(page, stack, TESTER, "/sentiment/v2/")
        ask(page, f"{TEXT}\n\nThe plot is dull and the acting is awful")
        expect(page.get_by_role("heading", level=2)).to_have_count(2)
        expect(page.locator("main")).to_contain_text("Version 2 of the model")
        first, second = (page.locator("section").nth(number) for number in (0, 1))
        expect(first.locator(".badge")).to_have_text("positive")
        expect(second.locator(".badge")).to_have_text("negative")
        expect(second.locator("dd")).to_have_text([re.compile("%"), re.compile("%")])
        shoot(page, "v2")
        second.get_by_role("button", name="No, neutral").click()
        assert ("neutral", "2") in [row[2:] for row in kept(stack, TESTER)]


def test_no_page_violates_any_rule(stack: Stack, browser: Browser, stable: str) -> None:
    with browsing(browser) as page:
        complaints, found, site = watched(page), {}, stack.addresses.public_url
        for path in ("", "signed-out", "callback", "nothing"):
            page.goto(f"{site}/sentiment/{path}")
            found[path] = violations(page)
        page.goto(f"{site}/sentiment/")
        sign_in(page, stack, stable)
        found["form"] = violations(page)
        ask(page, TEXT)
        found["prediction"] = violations(page)
        page.get_by_role("button", name="Yes, positive").click()
        found["thank you"] = violations(page)
        shoot(page, "prediction")
        page.get_by_role("link", name="Version 2").click()
        found["version 2"] = violations(page)
        ask(page, TEXT)
        found["refused"] = violations(page)
        assert {name: wrong for name, wrong in found.items() if wrong} == {}
        assert complaints == []


def test_who_has_used_up_the_quota_reads_when_it_is_back(stack: Stack, browser: Browser, stable: str) -> None:
    """Last of all: the quota of this user is gone afterwards."""
    statuses = [called(stack, stable).status_code for _ in range(11)]
    assert statuses[-1] == httpx.codes.TOO_MANY_REQUESTS
    with browsing(browser, width=320) as page:
        sign_in(page, stack, stable)
        with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
            ask(page, TEXT)
        assert answer.value.status == httpx.codes.TOO_MANY_REQUESTS
        refused = page.get_by_role("alert")
        expect(refused).to_contain_text(re.compile(r"used up your calls for now\. Try again in \d+ seconds?\."))
        expect(refused.locator("code")).to_have_text(re.compile("[0-9a-f-]{36}"))
        expect(page.get_by_label("Your text")).to_have_value(TEXT)
        shoot(page, "too-often")
