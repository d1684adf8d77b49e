"""The pages as people use them: with and without scripts, and by keyboard."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.console.world import Console, Person, browsing, refused, sign_in

Visit = Callable[..., Person]


def watched(page: Page) -> list[str]:
    """What the browser complains about: errors of scripts, and whatever the CSP forbids. A status is no complaint."""
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if "status of" not in said.text else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


@pytest.mark.parametrize("scripts", [True, False])
def test_a_token_from_its_first_to_its_last_day(console: Console, browser: Browser, *, scripts: bool) -> None:
    with browsing(browser, scripts=scripts) as page:
        complaints = watched(page)
        sign_in(page, console, "erin")
        name = f"script-{uuid.uuid4().hex[:6]}"
        first = _make(page, name)
        expect(page.get_by_role("button", name="Copy the token")).to_be_visible(visible=scripts)
        page.get_by_role("link", name="Details").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        expect(page.locator("dl")).to_contain_text("sentiment")
        assert _renew(page) != first
        page.go_back()
        page.go_forward()
        assert "tgl_" not in page.content(), "the history shows the token again"
        page.get_by_role("link", name="Details").click()
        _revoke(page, name)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
        page.goto(console.at("/tokens"))
        expect(page.get_by_label("Password")).to_be_visible()
        assert complaints == []


def _make(page: Page, name: str) -> str:
    page.get_by_role("link", name="New token").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("7 days").check()
    page.get_by_role("radio", name="Only these models").check()
    page.get_by_label("sentiment").check()
    page.get_by_role("button", name="Make the token").click()
    return _shown(page)


def _renew(page: Page) -> str:
    page.get_by_role("link", name="Renew").click()
    page.get_by_label("The old token stays valid for").select_option("1 hour")
    page.get_by_role("button", name="Renew").click()
    return _shown(page)


def _shown(page: Page) -> str:
    token = page.get_by_label("Token", exact=True).input_value()
    assert token.startswith("tgl_")
    return token


def _revoke(page: Page, name: str) -> None:
    page.get_by_role("link", name="Revoke").click()
    expect(page.locator(".note")).to_contain_text("It was never used")
    page.get_by_role("button", name=f"Revoke {name}").click()
    expect(page.get_by_role("status")).to_contain_text("is revoked")
    page.get_by_role("link", name="Tokens", exact=True).click()
    expect(page.get_by_role("row").filter(has_text=name)).to_contain_text("revoked")


def test_the_new_token_is_copied_by_a_button(console: Console, browser: Browser) -> None:
    with browsing(browser) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        sign_in(page, console, "erin", "/login?next=%2Ftollgate%2Ftokens%2Fnew")
        page.get_by_label("Name").fill(f"copied-{uuid.uuid4().hex[:6]}")
        page.get_by_role("button", name="Make the token").click()
        page.get_by_role("button", name="Copy the token").click()
        expect(page.get_by_text("Copied.")).to_be_visible()
        token = page.get_by_label("Token", exact=True).input_value()
        assert page.evaluate("navigator.clipboard.readText()") == token


def test_by_keyboard_alone(console: Console, browser: Browser) -> None:
    """What has the focus is seen, the first stop skips the navigation, and a form is filled and sent."""
    with browsing(browser) as page:
        sign_in(page, console, "erin", "/login?next=%2Ftollgate%2Ftokens%2Fnew")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        name = f"by-keyboard-{uuid.uuid4().hex[:6]}"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "name"
        page.keyboard.type(name)
        for _ in range(20):
            page.keyboard.press("Tab")
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            if page.evaluate("document.activeElement.textContent") == "Make the token":
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_calls_are_drawn_and_listed(console: Console, visit: Visit) -> None:
    frank = visit("frank")
    frank.get("/tokens")
    for number in range(3):
        refused(console, "frank", model="cancer", reason="allowed" if number else "over_limit")
    page = frank.get("/usage").text
    assert "3 calls from" in page
    assert page.count('<rect class="bar" x=') == 1
    assert page.count('<rect class="refused" x=') == 1
    assert '<td class="number">2</td><td class="number">1</td>' in page
    assert "10 of 10" in page, "what is left of the limit"


def test_a_refusal_is_explained_by_its_decision_id(console: Console, visit: Visit) -> None:
    frank = visit("frank")
    decision = refused(console, "frank", code="role_missing", route="special", path="/v2/special", method="POST")
    found = frank.get(f"/refusals?id=urn:uuid:{decision}")
    assert found.headers["location"] == f"/tollgate/refusals/{decision}"
    page = frank.get(f"/refusals/{decision}").text
    assert "The token lacks a role that this path needs." in page
    assert "operator" in page, "the role that the route takes"
    assert decision in frank.get("/refusals").text
    assert frank.get("/refusals?id=nonsense").status_code == 400


def test_models_are_those_that_may_be_called(console: Console, visit: Visit) -> None:
    page = visit("erin").get("/models?model=cancer").text
    assert f"curl -s {console.url}/v2/models/cancer/infer" in page
    assert "secret-model" not in page
    assert "You may call none" in visit("carol").get("/models?model=cancer").text
