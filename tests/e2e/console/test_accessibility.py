"""Every page, by every rule that axe has: in the light at a desk, and in the dark on the smallest phone.

Rules of any level, best practices, experimental and deprecated ones: none is off.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect
from starlette.routing import Route

from tests.e2e.billing.world import Books, pay
from tests.e2e.console.test_pages import watched
from tests.e2e.console.world import Console, Person, browsing, owner, refused, sign_in

Visit = Callable[..., Person]
NO_PAGES = {"", "/login", "/admin", "/static/{name}", "/bill/{account}/export"}
"""What only leads elsewhere, the second address of a page, and files."""
_EVERY_RULE = """() => axe.run({
    runOnly: {type: "rule", values: axe.getRules().map(rule => rule.ruleId)},
    resultTypes: ["violations", "incomplete"],
}).then(found => ({violations: found.violations, incomplete: found.incomplete}))"""
_WIDE = """() => ["html", ".table", "pre", "svg"].flatMap(what => [...document.querySelectorAll(what)])
    .filter(each => each.scrollWidth > each.clientWidth && each.clientWidth).map(each => each.outerHTML.slice(0, 60))"""


@pytest.fixture
def erins(console: Console, visit: Visit) -> Iterator[dict[str, str]]:
    """Pages with something on them, by what they are."""
    erin, some = visit("erin"), uuid.uuid4().hex[:4]
    account = f"batch-{some}"
    erin.post("/service-accounts", name=account, group="/team-vision")
    erin.make(f"of-the-service-{some}", service=f"service:{account}")
    revoked = erin.make(f"revoked-{some}")
    erin.post(f"/tokens/{revoked}/revoke")
    soon, expired, grant = (erin.make(f"{name}-{some}") for name in ("soon", "expired", "nightly"))
    _expires(console, soon, "1 hour")
    _expires(console, expired, "-1 hour")
    number = _billed(console, account)
    tiles = _published(erin, f"tiles-{some}")
    decision = refused(console, "erin", model="cancer", client="tollgate:nightly")
    refused(console, "erin", model="cancer", reason="allowed", code="")
    yield {
        "tokens": "/tokens",
        "new token": "/tokens/new",
        "token": f"/tokens/{grant}",
        "shown token": f"/tokens/{grant}/token",
        "token that was shown": f"/tokens/{grant}/token",
        "token that expires": f"/tokens/{soon}",
        "revoked token": f"/tokens/{revoked}",
        "renew": f"/tokens/{grant}/renew",
        "revoke": f"/tokens/{grant}/revoke",
        "revoke all": "/tokens/revoke-all",
        "service accounts": "/service-accounts",
        "service account": f"/service-accounts/{account}",
        "usage of a service account": f"/service-accounts/{account}/usage",
        "usage": "/usage?days=7",
        "refusals": "/refusals",
        "refusal": f"/refusals/{decision}",
        "models": "/models",
        "catalogue": "/catalogue",
        "nothing found": "/catalogue?q=nothing&sort=-datetime",
        "entry of the catalogue": "/catalogue/ai-model/cancer",
        "no entry": "/catalogue/ai-model/secret-model",
        "publish": "/catalogue/publish",
        "published": tiles,
        "versions": f"{tiles}/versions",
        "bills": "/bill",
        "draft": f"/bill/{account}",
        "invoice": f"/bill/{account}?of={number}",
        "try a text": "/models/sentiment/try",
        "try numbers": "/models/cancer/try",
        "try a drawing": "/models/digits/try",
        "try anything else": "/models/odd/try",
        "no form": "/models/photos/try",
        "no model": "/models/nothing/try",
        "sign out": "/logout",
        "error": f"/tokens/{uuid.uuid4()}",
        "no page": "/nothing",
    }
    erin.post("/tokens/revoke-all")


def _published(erin: Person, name: str) -> str:
    """Path of a processor with everything; of its versions one is withdrawn."""
    size = (
        '[{"name": "size", "type": "integer", "default": 256, "minimum": 16, "maximum": 4096, "description": "Side"}]'
    )
    about = {"title": "Cuts tiles", "description": "Of an image.", "license": "MIT", "keywords": "image, tile"}
    file = {"href": "https://data.example/tiles.whl", "type": "application/zip", "parameters": size}
    for version in ("1.0", "1.1"):
        key = {"collection": "processor", "name": name, "version": version, "accept_terms": "1"}
        path = erin.post("/catalogue/publish", **key, **about, **file).headers["location"]
    tiles = path.removeprefix("/tollgate").removesuffix("/versions")
    assert erin.post(f"{tiles}/unpublish", version="1.1").status_code == 303
    return tiles


def _billed(console: Console, account: str) -> int:
    """A draft with lines, and the number of an invoice."""
    client = f"{account}-client"
    pay(console.database_url, account, owner(console, "erin"), client)
    books = Books(console.database_url, Path())
    books.call(datetime.now(UTC).isoformat()[:19], 5, client=client)
    with psycopg.connect(console.database_url) as connection:
        connection.execute("UPDATE billing_accounts SET anchor = anchor - 31 WHERE name = %s", (account,))
        connection.execute("UPDATE billing_subscriptions SET since = since - 31 WHERE account = %s", (account,))
    with ThreadPoolExecutor(1) as thread:  # asyncio is the browser's in this one
        made = thread.submit(books.tollgate, "finalize", account, "--grace", "1s").result()
    return int(made.partition(":")[0])


def _expires(console: Console, grant: str, distance: str) -> None:
    with psycopg.connect(console.database_url) as connection:
        connection.execute(
            "UPDATE tokens SET issued_at = now() - interval '6 days', expires_at = now() + %s::interval"
            " WHERE grant_id = %s",
            (distance, grant),
        )


@pytest.fixture
def carols(console: Console, visit: Visit) -> Iterator[dict[str, str]]:
    """Pages of an administrator, who has nothing."""
    frank, carol, target = visit("frank"), visit("carol"), {"kind": "client", "issuer": "demo", "value": "some-app"}
    grant = frank.make(f"franks-{uuid.uuid4().hex[:6]}")
    carol.post("/admin/revoke", None, **target, reason="leaked", days="1")
    refused(console, "carol", policy="00112233aabbccdd")
    yield {
        "people": "/admin/?text=frank",
        "tokens of everybody": "/admin/tokens",
        "token of somebody": f"/admin/tokens/{grant}",
        "revoke": "/admin/revoke",
        "a look before": "/admin/revoke?kind=user&issuer=demo&value=somebody",
        "revocations": "/admin/revocations",
        "history": "/admin/revocations/history",
        "audit": "/admin/audit",
        "policy": "/admin/policy",
        "no tokens": "/tokens",
        "no models": "/models",
        "empty catalogue": "/catalogue",
    }
    carol.post("/admin/lift", None, **target)
    frank.post("/tokens/revoke-all")


@pytest.mark.timeout(300)  # each page twice, by a hundred rules
def test_no_page_violates_any_rule(
    console: Console, browser: Browser, erins: dict[str, str], carols: dict[str, str], routes: list[Route]
) -> None:
    with browsing(browser) as page:
        complaints = watched(page)
        outside = {"start": "/", "signed out": "/signed-out", "sign-in that failed": "/callback"}
        wrong = _of_pages(page, console, outside)
        sign_in(page, console, "erin")
        wrong |= _of_pages(page, console, erins)
        page.goto(console.at("/tokens/new"))
        page.get_by_label("Name").fill("x")
        page.get_by_role("radio", name="Only these models").check()
        page.get_by_role("button", name="Make the token").click()
        expect(page.get_by_role("alert")).to_be_visible()
        wrong["form with a mistake"] = violations(page)
        for text in ("I love it", "limited"):
            page.goto(console.at("/models/sentiment/try"))
            page.get_by_label("text").fill(text)
            page.get_by_role("button", name="Predict").click()
            expect(page.get_by_role("heading", name="The same call from a program")).to_be_visible()
            wrong[f"after {text}"] = violations(page)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
        sign_in(page, console, "carol")
        wrong |= _of_pages(page, console, carols)
        assert {name: found for name, found in wrong.items() if found} == {}
        assert complaints == []
    assert _never_seen(routes, [*outside.values(), *erins.values(), *carols.values()]) == set()


def _of_pages(page: Page, console: Console, pages: dict[str, str]) -> dict[str, list[str]]:
    found = {}
    for name, path in pages.items():
        page.goto(console.at(path))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        found[name] = violations(page)
    return found


def _never_seen(routes: list[Route], paths: Iterable[str]) -> set[str]:
    """A page that is not among the pages above."""
    pages = {route.path.removeprefix("/tollgate"): route for route in routes if "GET" in (route.methods or ())}
    bare = [f"/tollgate{path.partition('?')[0]}" for path in paths]
    return {name for name, route in pages.items() if not any(map(route.path_regex.match, bare))} - NO_PAGES


def violations(page: Page) -> list[str]:
    """Loaded once, seen twice: colours go by the scheme, and sizes by the width."""
    page.evaluate(AXE_SCRIPT)
    found = []
    for dark, width in ((False, 1200), (True, 320)):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": width, "height": 800})
        found += [f"at {width}: {each}" for each in _violations(page)]
    return found


def _violations(page: Page) -> list[str]:
    """What axe cannot decide counts too; but of drawn text, and of a single character, it never knows the contrast."""
    result = page.evaluate(_EVERY_RULE)
    undecided = (each for each in result["incomplete"] if not each["id"].startswith("color-contrast"))
    found = [
        f"{each['id']}: {node['html'][:120]}" for each in (*result["violations"], *undecided) for node in each["nodes"]
    ]
    return found + [f"scrolls sideways: {each}" for each in page.evaluate(_WIDE)]


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("document.querySelector('main').append(document.createElement('img'))", "image-alt"),
        ("document.querySelector('main p').style.color = '#6b6b6b'", "color-contrast-enhanced"),
        (
            "document.querySelector('main p').innerHTML = '<a href=/tollgate/x>Sign in</a>'",
            "identical-links-same-purpose",
        ),
        ("document.querySelector('main a').setAttribute('aria-label', 'Elsewhere')", "label-content-name-mismatch"),
        ("document.querySelector('h1').style.width = '3000px'", "scrolls sideways"),
    ],
)
def test_what_is_broken_is_found(console: Console, browser: Browser, broken: str, rule: str) -> None:
    """One each of level A, AAA, AAA where axe cannot decide, experimental, and our own."""
    with browsing(browser) as page:
        page.goto(console.at("/"))
        page.evaluate(broken)
        assert rule in " ".join(violations(page))
