"""The walk-through of docs/console.md, step by step, in a browser and a shell, through the real Envoy.

With SCREENSHOTS (a folder) it makes the pictures of that page: `make screenshots`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from devstack.stack.stack import Stack, running_stack
from tests.e2e.console.world import browsing, running_browser
from tests.keycloak import RunningKeycloak
from tests.services import wait_for

pytestmark = pytest.mark.timeout(400)  # Triton, and maybe the start of a Keycloak

PAGE = Path(__file__).parents[3] / "docs/console.md"
ACCOUNT = "erin"
OF_AN_ISSUER = ("console", "authorizer", "usage-worker", "envoy")
"""Parts of the stack, in start order."""


class Walk:
    """What a newcomer has: a browser, a shell, and the address."""

    def __init__(self, url: str, page: Page) -> None:
        self.url = url
        self.page = page
        self.token = self.renewed = self.command = self.decision = ""

    def sign_in(self) -> None:
        self.page.goto(f"{self.url}/tollgate/")
        self.page.get_by_role("link", name="Sign in").click()
        self.page.locator("input[name=username]").fill(ACCOUNT)
        self.page.locator("input[name=password]").fill(ACCOUNT)
        self.page.locator("input[name=password]").press("Enter")
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Your tokens")

    def make_a_token(self) -> None:
        self.page.get_by_role("link", name="New token").click()
        self.page.get_by_label("Name").fill("nightly-scoring")
        self.page.get_by_role("radio", name="Only these models").check()
        self.page.get_by_label("sentiment").check()
        self._shoot("new")
        self.page.get_by_role("button", name="Make the token").click()
        self.token = self.page.get_by_label("Token", exact=True).input_value()
        self._shoot("token")

    def call_a_model(self) -> None:
        self.page.get_by_role("link", name="Models").click()
        self.command = self.page.locator("pre", has_text="/v2/models/sentiment/infer").inner_text()
        self._shoot("models")
        assert "positive" in self._run(self.token)

    def renew_it(self) -> None:
        self.page.get_by_role("link", name="Tokens", exact=True).click()
        self.page.get_by_role("link", name="nightly-scoring").click()
        self.page.get_by_role("link", name="Renew").click()
        self.page.get_by_label("The old token stays valid for").select_option("1 hour")
        self._shoot("renew")
        self.page.get_by_role("button", name="Renew").click()
        self.renewed = self.page.get_by_label("Token", exact=True).input_value()
        assert self.renewed != self.token
        assert "positive" in self._run(self.renewed)
        assert "positive" in self._run(self.token), "the grace is not over"

    def revoke_it(self) -> None:
        self.page.get_by_role("link", name="Details").click()
        self.page.get_by_role("link", name="Revoke").click()
        self._shoot("revoke")
        self.page.get_by_role("button", name="Revoke nightly-scoring").click()
        expect(self.page.get_by_role("status")).to_contain_text("is revoked")
        for token in (self.renewed, self.token):
            refused = json.loads(self._run(token))
            assert (refused["status"], refused["code"]) == (401, "invalid_token")
            self.decision = refused["decision_id"]

    def see_why_it_was_refused(self) -> None:
        def is_there() -> bool:
            self.page.get_by_role("link", name="Refusals").click()
            self.page.get_by_label("Find a call by its decision id").fill(self.decision)
            self.page.get_by_role("button", name="Find").click()
            return self.page.get_by_text("The token was revoked").is_visible()

        wait_for(is_there, seconds=60)
        self._shoot("refusal")
        self.page.get_by_role("link", name="Usage").click()
        self._shoot("usage")
        self.page.get_by_role("button", name="Sign out").click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text("You are signed out")

    def _run(self, token: str) -> str:
        """The line of the page, in a shell that has the token."""
        environ = {"PATH": os.environ["PATH"], "TOKEN": token}
        return subprocess.run(
            ["bash", "-c", self.command], env=environ, capture_output=True, text=True, check=True
        ).stdout

    def _shoot(self, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.evaluate("scrollTo(0, 0)")
            self.page.screenshot(path=Path(folder) / f"console-{name}.png")


STEPS: dict[str, Callable[[Walk], None]] = {
    "Sign in": Walk.sign_in,
    "Make a token": Walk.make_a_token,
    "Call a model": Walk.call_a_model,
    "Renew it": Walk.renew_it,
    "Revoke it": Walk.revoke_it,
    "See why it was refused": Walk.see_why_it_was_refused,
}
"""By the headings of the page."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With the development realm. Its start needs asyncio: before a browser is open."""
    if not shutil.which("curl"):
        pytest.skip("the walk-through calls a model with curl, which is not installed")
    with running_stack(tmp_path_factory.mktemp("walk") / "state") as stack:
        yield stack


@pytest.fixture(params=["embedded", pytest.param("keycloak", marks=pytest.mark.keycloak)])
def url(request: pytest.FixtureRequest, stack: Stack) -> Iterator[str]:
    """Of the door. What knows the issuer is started again for another one; the stores and Triton do not."""
    if request.param == "embedded":
        yield stack.addresses.public_url
        return
    real: RunningKeycloak = request.getfixturevalue("keycloak")
    _stop(stack)
    other = _empty(stack, real.issuer)
    try:
        for name in OF_AN_ISSUER:
            other.child(name).start(lambda: False)
        yield other.addresses.public_url
    finally:
        _stop(other)


def _empty(stack: Stack, issuer: str) -> Stack:
    """The same, with nothing in the stores: the two realms have the same users."""
    database, redis = stack.addresses.database_url, stack.addresses.redis_url
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
    urls = {"database_url": f"{database.rpartition('/')[0]}/other", "redis_url": f"{redis.rpartition('/')[0]}/1"}
    secrets = {name: SecretStr(url) for name, url in urls.items()}
    return Stack(stack.settings.model_copy(update={"issuer": issuer, **secrets}), stack.state)


def _stop(stack: Stack) -> None:
    for name in reversed(OF_AN_ISSUER):
        stack.child(name).stop()


def test_the_walk_through(url: str) -> None:
    described = re.findall(r"^### \d\. (.+)$", PAGE.read_text(), re.MULTILINE)
    assert described == [*STEPS], "docs/console.md has other steps"
    with running_browser() as browser, browsing(browser, width=800) as page:
        page.set_viewport_size({"width": 800, "height": 560})
        walk = Walk(url, page)
        for step in STEPS.values():
            step(walk)
