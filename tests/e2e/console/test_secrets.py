"""A token and a session are in no log, no error, no later page, no address, and in nothing that a browser keeps."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from playwright.sync_api import Browser, Page, Request, Response

from tests.e2e.console.world import CHROMIUM, KEYS, Console, Person, sign_in

Visit = Callable[..., Person]


class Traces:
    """What goes through one page, but for bodies of answers."""

    def __init__(self, page: Page, origin: str) -> None:
        self.addresses: list[str] = []
        self.kept: list[str] = []
        """Documents that a cache may keep."""
        self._origin = origin
        page.on("request", self._asked)
        page.on("response", self._answered)

    def _asked(self, request: Request) -> None:
        self.addresses += [request.url, request.headers.get("referer", "")]

    def _answered(self, response: Response) -> None:
        self.addresses.append(response.headers.get("location", ""))
        is_page = response.url.startswith(self._origin) and "/static/" not in response.url
        if is_page and response.headers.get("cache-control") != "no-store":
            self.kept.append(response.url)


@contextmanager
def keeping(browser: Browser, profile: Path) -> Iterator[Page]:
    """A page of a browser that keeps what people's browsers keep, in this directory."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    context = browser.browser_type.launch_persistent_context(profile, executable_path=CHROMIUM, args=root)
    context.set_default_timeout(15_000)
    try:
        yield context.new_page()
    finally:
        context.close()


def test_a_token_and_the_session_leave_no_trace(console: Console, browser: Browser, tmp_path: Path) -> None:
    with keeping(browser, tmp_path / "profile") as page:
        traces = Traces(page, console.url)
        sign_in(page, console, "erin", "/login?next=%2Ftollgate%2Ftokens%2Fnew")
        cookie, csrf = _cookie(page), page.locator("input[name=csrf]").first.input_value()
        page.get_by_label("Name").fill(f"traced-{uuid.uuid4().hex[:6]}")
        page.get_by_role("button", name="Make the token").click()
        shown = [_shown(page)]
        grant = page.url.split("/")[-2]
        pages = [_content(page.reload, page)]
        page.goto(console.at(f"/tokens/{grant}/renew"))
        page.get_by_role("button", name="Renew").click()
        shown.append(_shown(page))
        for path in (
            "",
            "/tokens",
            f"/tokens/{grant}",
            f"/tokens/{grant}/token",
            "/usage",
            "/refusals",
            "/models",
            "/catalogue",
            "/x",
        ):
            page.goto(console.at(path))
            pages.append(page.content())
        history = page.context.new_cdp_session(page).send("Page.getNavigationHistory")["entries"]
        for step in (page.go_back, page.go_forward):
            pages += [_content(step, page) for _ in range(len(history) - 2)]
        pages.append(_content(lambda: page.goto(console.at(f"/tokens/{grant}/revoke")), page))
        page.get_by_role("button", name="Revoke").click()
        pages.append(page.content())
        stored = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert len(history) > 10
    assert shown[0] != shown[1]
    of_tokens = [part for token in shown for part in (token, token.split(".")[2].partition("~")[0])]
    assert not _among([*of_tokens, cookie], [*pages, stored])
    assert not _among([*of_tokens, cookie, csrf, "code="], [f"{entry}" for entry in history])
    assert not _among([*of_tokens, cookie, csrf], [*traces.addresses, console.log.read_text()])
    assert traces.kept == []
    assert _kept(tmp_path / "profile", ["/tollgate/tokens"]), "the browser kept nothing: nothing can be found"
    assert _kept(tmp_path / "profile", [*of_tokens, cookie]) == []


def _cookie(page: Page) -> str:
    return next(str(cookie["value"]) for cookie in page.context.cookies() if cookie["name"] == "tollgate")


def _shown(page: Page) -> str:
    token = page.get_by_label("Token", exact=True).input_value()
    assert token.startswith("tgl_")
    return token


def _content(step: Callable[[], object], page: Page) -> str:
    step()
    return page.content()


def _among(secrets: list[str], texts: list[str]) -> list[str]:
    assert all(secrets)
    return [secret for secret in secrets if any(secret in text for text in texts)]


def _kept(profile: Path, secrets: list[str]) -> list[str]:
    """Files of a browser's profile that have one of these: history, sessions, caches."""
    files = (file for file in profile.rglob("*") if file.is_file() and not file.is_symlink())
    wanted = [text for secret in secrets for text in (secret.encode(), secret.encode("utf-16-le"))]
    return [str(file) for file in files if (content := file.read_bytes()) and any(each in content for each in wanted)]


def test_the_new_token_is_shown_once_and_nowhere_else(console: Console, visit: Visit) -> None:
    erin = visit("erin")
    grant = erin.make("shown-once")
    other = visit("erin")
    assert "tgl_" not in other.get(f"/tokens/{grant}/token").text, "another session of the same person has it"
    assert erin.http.head(f"/tollgate/tokens/{grant}/token").status_code == 200
    assert "tgl_" not in erin.get("/tokens").text
    token = erin.token_of(grant)
    assert token
    for path in ("", "/tokens", f"/tokens/{grant}", f"/tokens/{grant}/token"):
        assert "tgl_" not in erin.get(path).text
    with psycopg.connect(console.database_url) as connection:
        rows = [connection.execute(query).fetchall() for query in ("TABLE console_sessions", "TABLE tokens")]
    assert token.split(".")[2] not in repr(rows)
    erin.post(f"/tokens/{grant}/revoke")


def test_the_log_has_no_secret(console: Console, visit: Visit) -> None:
    erin = visit()
    location = erin.come_back("erin")
    erin.http.get(location)
    token = erin.token_of(erin.make(f"logged-{uuid.uuid4().hex[:8]}"))
    log = Path(console.log).read_text()
    secrets = [token, erin.cookie, erin.csrf(), httpx.URL(location).params["code"]]
    secrets += ["tollgate-console-secret", KEYS, "eyJhbGci"]
    assert [secret for secret in secrets if secret in log] == []
    assert "Traceback" not in log, "a page failed"
    assert os.environ.get("HOME", "/nowhere") not in erin.get("/nothing").text
    erin.post("/tokens/revoke-all")
