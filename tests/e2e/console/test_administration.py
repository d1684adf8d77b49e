"""The pages of administrators: find people and tokens, revoke with a look at what it hits, read who did what."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.console.test_pages import watched
from tests.e2e.console.world import Console, Person, browsing, refused, sign_in

Visit = Callable[..., Person]


@pytest.fixture
def grant(visit: Visit) -> Iterator[tuple[str, str]]:
    """Of frank: its id and its name."""
    frank, name = visit("frank"), f"franks-{uuid.uuid4().hex[:6]}"
    yield frank.make(name), name
    visit("frank").post("/tokens/revoke-all")


def _subject(page: Page) -> str:
    return page.get_by_role("row").filter(has_text="grace").get_by_role("rowheader").inner_text().split()[-1]


@pytest.mark.parametrize("scripts", [True, False])
def test_a_token_of_somebody_is_found_and_revoked(
    console: Console, browser: Browser, grant: tuple[str, str], *, scripts: bool
) -> None:
    with browsing(browser, scripts=scripts) as page:
        complaints = watched(page)
        sign_in(page, console, "carol")
        page.get_by_role("link", name="Administration").click()
        page.get_by_label("Name or subject").fill("fran")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="Tokens of frank").click()
        page.get_by_role("link", name=grant[1]).click()
        page.get_by_label("Reason").fill("found in a log")
        page.get_by_role("button", name=f"Revoke {grant[1]}").click()
        expect(page.get_by_role("status")).to_contain_text("is revoked")
        page.get_by_role("link", name="Every change of it").click()
        row = page.get_by_role("row").filter(has_text="grant.revoked")
        expect(row).to_contain_text("carol@demo")
        expect(row).to_contain_text("found in a log")
        assert complaints == []


def test_a_user_is_revoked_after_a_look_and_lifted(console: Console, browser: Browser, visit: Visit) -> None:
    grace = visit("grace")
    refused(console, "grace", token_id=f"t-{uuid.uuid4().hex}", client="web-app")
    with browsing(browser) as page:
        sign_in(page, console, "carol", "/login?next=%2Ftollgate%2Fadmin%2F")
        page.get_by_label("Name or subject").fill("grace")
        page.get_by_role("button", name="Search").click()
        subject = _subject(page)
        page.get_by_role("link", name="Revoke grace").click()
        facts = page.locator("dl")
        expect(facts).to_contain_text(subject)
        expect(facts).to_contain_text("web-app")
        assert grace.get("/tokens").status_code == 200, "a look revokes nothing"
        page.get_by_label("Reason").fill("left the company")
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("status")).to_contain_text("Revoked: user")
        assert grace.get("/tokens").status_code == 303, "signed out at once"
        row = page.get_by_role("row").filter(has_text=subject)
        expect(row).to_contain_text("left the company")
        row.get_by_role("button", name="Lift").click()
        expect(page.get_by_role("status")).to_contain_text("Lifted: user")
        page.get_by_role("link", name="History").click()
        expect(page.get_by_role("row").filter(has_text=subject).first).to_contain_text("lifted")


def test_a_token_that_is_pasted_never_gets_into_an_address(console: Console, browser: Browser, visit: Visit) -> None:
    frank = visit("frank")
    token = frank.token_of(frank.make(f"pasted-{uuid.uuid4().hex[:6]}"))
    with browsing(browser) as page:
        sign_in(page, console, "carol", "/login?next=%2Ftollgate%2Fadmin%2Frevoke")
        page.get_by_label("one token (jti)").check()
        page.get_by_label("Its id").fill(token)
        page.get_by_role("button", name="Show what it hits").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Revoke this token?")
        assert "tgl_" not in page.url
        assert token not in page.content()
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("status")).to_contain_text("Revoked: token")
    assert token not in console.log.read_text()
    frank.post("/tokens/revoke-all")


@pytest.mark.parametrize("around", ["{}", "bearer {}", "Authorization: Bearer {}", '"{}"', "token={};", "{}."])
def test_whatever_is_around_a_pasted_token_it_gets_into_no_address(visit: Visit, around: str) -> None:
    erin = visit("erin")
    grant = erin.make(f"pasted-{uuid.uuid4().hex[:6]}")
    token = erin.token_of(grant)
    for pasted in (token, token[:-4], token.partition("~")[2]):
        fields = {"kind": "session", "issuer": "demo", "value": around.format(pasted)}
        answer = visit("carol").post("/admin/revoke/find", None, **fields)
        assert token.split(".")[1] not in answer.headers.get("location", "") + answer.text
    erin.post("/tokens/revoke-all")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "planet", "issuer": "demo", "value": "x"}, "choose what to revoke"),
        ({"kind": "user", "issuer": "other", "value": "x"}, "choose an issuer of the policy: demo"),
        ({"kind": "token", "issuer": "demo", "value": "tgl_x"}, "was it copied whole?"),
    ],
)
def test_a_mistake_is_said_on_the_form(visit: Visit, fields: dict[str, str], said: str) -> None:
    answer = visit("carol").post("/admin/revoke/find", None, **fields)
    assert (answer.status_code, said in answer.text) == (400, True)


def test_the_policy_that_decides_is_shown(console: Console, visit: Visit) -> None:
    visit("grace").get("/tokens")
    refused(console, "grace", policy="00112233aabbccdd")
    page = visit("carol").get("/admin/policy").text
    assert "00112233aabbccdd" in page
    assert "None answers here" in page
