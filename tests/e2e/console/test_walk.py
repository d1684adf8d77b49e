"""The walk-through of docs/console.md, step by step, in a browser and a shell, through the real Envoy; and the
playground, with real models.

With SCREENSHOTS (a folder) it makes the pictures of that page: `make screenshots`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from google.protobuf import json_format
from grpc import insecure_channel
from playwright.sync_api import Page, expect
from pydantic import SecretStr
from tritonclient.grpc import service_pb2, service_pb2_grpc

from devstack.stack.stack import Stack, running_stack
from tests.e2e.console.world import browsing, running_browser
from tests.e2e.stack.conftest import token_of
from tests.keycloak import RunningKeycloak
from tests.services import wait_for

pytestmark = pytest.mark.timeout(400)  # Triton, and maybe the start of a Keycloak

PAGE = Path(__file__).parents[3] / "docs/console.md"
ACCOUNT, TRIES = "erin", "load31"
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
        expect(self.page.get_by_role("button", name="Copy the token")).to_be_visible()  # by a script
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
            self.page.get_by_role("link", name="Refusals", exact=True).click()
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
        shoot(self.page, name)


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=Path(folder) / f"console-{name}.png", full_page=True)


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


TWO = [(90, 90), (150, 40), (220, 80), (210, 140), (90, 270), (240, 270)]
"""A digit, as it is drawn on a pad of 320 by 320."""


def test_the_playground(stack: Stack) -> None:
    """A text, a drawing and a table, by the models of the demo; then until a limit is used up.

    Before the walk over another issuer, which ends parts of this stack."""
    url = stack.addresses.public_url
    with running_browser() as browser, browsing(browser, width=1000) as page:
        page.set_viewport_size({"width": 1000, "height": 640})
        page.goto(f"{url}/tollgate/login?next=/tollgate/models?model=sentiment")
        page.locator("input[name=username]").fill(TRIES)
        page.locator("input[name=password]").fill(TRIES)
        page.locator("input[name=password]").press("Enter")
        page.get_by_role("link", name="Try sentiment here").click()
        page.get_by_label("text").fill('It\'s a "wonderful" day,\nI love it!')
        decision = _predict(page, "positive")
        shoot(page, "try")
        _ensure_the_same_everywhere(page, stack)
        wait_for(lambda: _recorded(stack, decision) == ("allowed", "tollgate:playground", "sentiment"), seconds=60)
        page.goto(f"{url}/tollgate/models/cancer/try")
        expect(page.get_by_label("mean radius")).to_have_value("14.1")
        page.get_by_label("Version").select_option("1")
        _predict(page, re.compile("benign|malignant"))
        expect(page.locator("dl.facts")).to_contain_text("Version1")
        page.goto(f"{url}/tollgate/models/digits/try")
        _draw(page, TWO)
        _predict(page, "2")
        shoot(page, "try-digits")
        _until_refused(page, url)
        page.goto(f"{url}/tollgate/models/nothing/try")
        expect(page.get_by_role("alert")).to_contain_text("You may not do this with this model.")


def test_the_walk_through(url: str) -> None:
    described = re.findall(r"^### \d\. (.+)$", PAGE.read_text(), re.MULTILINE)
    assert described == [*STEPS], "docs/console.md has other steps"
    with running_browser() as browser, browsing(browser, width=800) as page:
        page.set_viewport_size({"width": 800, "height": 560})
        walk = Walk(url, page)
        for step in STEPS.values():
            step(walk)


def _predict(page: Page, label: str | re.Pattern[str]) -> str:
    """The decision id."""
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".headline strong")).to_have_text(label)
    expect(page.locator("dl.facts")).to_contain_text("of 10 in user-minute")
    return page.locator("dl.facts code").inner_text()


def _ensure_the_same_everywhere(page: Page, stack: Stack) -> None:
    """What the three lines of the page do, with what was typed between quotes."""
    curl, python, grpc = page.locator("pre").all_inner_texts()
    environ = {"PATH": os.environ["PATH"], "TOKEN": token_of(stack, TRIES)}
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        assert "positive" in said
    _, _, _, _, _, _, _, body, where, _ = (word for word in shlex.split(grpc) if word != "\n")
    message = json_format.ParseDict(json.loads(body), service_pb2.ModelInferRequest())
    with insecure_channel(where) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(message, timeout=30, metadata=(("authorization", f"Bearer {environ['TOKEN']}"),))
    assert b"positive" in b"".join(answer.raw_output_contents)


def _recorded(stack: Stack, decision: str) -> tuple[object, ...] | None:
    with psycopg.connect(stack.addresses.database_url) as connection:
        query = "SELECT reason, client, model FROM usage_events WHERE decision_id = %s"
        return connection.execute(query, (decision,)).fetchone()


def _draw(page: Page, points: Sequence[tuple[int, int]]) -> None:
    pad = page.locator("canvas")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"] / 320, box["y"] + y * box["height"] / 320) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def _until_refused(page: Page, url: str) -> None:
    """Ten a minute; and why, when the usage worker has written it."""
    refused = page.get_by_text("A limit is used up.")
    for _ in range(20):
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("#result dl.facts")).to_be_visible()
        if refused.is_visible():
            break
    expect(refused).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("Try again in")

    shoot(page, "try-refused")
    why = page.locator("#result a").get_attribute("href")

    def is_there() -> bool:
        page.goto(f"{url}{why}")
        return page.get_by_role("heading", name="Why this call was refused").is_visible()

    wait_for(is_there, seconds=60)
    expect(page.get_by_text("user-minute")).to_be_visible()
