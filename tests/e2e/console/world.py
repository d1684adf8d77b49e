"""A console with all that it needs, and a browser that opens it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import httpx
import psycopg
import pytest
from msgspec import Struct
from playwright.sync_api import Browser, Page, sync_playwright
from psycopg import sql

from ext_authz.clock import SystemClock
from ext_authz.db.migrate import migrate
from ext_authz.decision import DecisionIds
from ext_authz.ledger.event import COLUMNS
from tests.e2e.console.door import Door, running_door
from tests.keycloak import EXPORT
from tests.services import free_port, wait_for

CHROMIUM = "/usr/bin/chromium"
MODELS = Path(__file__).parents[3] / "model_servers/repository"
KEYS = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
POLICY = """
version: 1
issuers:
  - {name: demo, issuer: "${TOLLGATE_ISSUER}", audiences: [triton-gateway], roles_client: triton-gateway, leeway: 0s}
resource: {url: "${TOLLGATE_PUBLIC_URL}"}
limits:
  user-minute: {key: [user], rate: 10/minute}
  token-day: {key: [token], rate: 50/day}
  client-day: {key: [client], rate: 70/day}
  address-day: {key: [ip], rate: 90/day}
models:
  sentiment: {roles: [infer]}
  cancer: {roles: [infer]}
  secret-model: {call: {group: /nobody}}
explain: {usernames: true}
routes:
  - name: infer
    path: "/v2/models/{model}/infer"
    methods: [POST]
    limits: [user-minute, token-day, client-day, address-day]
  - {name: special, path: /v2/special, methods: [POST], roles: [operator]}
tokens:
  audiences: [triton-gateway]
  administrators: {role: tollgate-admin}
"""


class Realm:
    """The embedded identity provider, that a test may stop and start again: its sessions stay."""

    def __init__(self, directory: Path, public_url: str) -> None:
        port = free_port()
        self.issuer = f"http://127.0.0.1:{port}/realms/tollgate"
        self._arguments = ["--realm", str(EXPORT), "--state", str(directory / "realm"), "--port", str(port)]
        self._environ = {**os.environ, "TOLLGATE_PUBLIC_URL": public_url}
        self._log = directory / "realm.log"
        self._stop = ExitStack()

    def start(self) -> None:
        self._stop.enter_context(_running(["-m", "devstack.realm", *self._arguments], self._environ, self._log))
        wait_for(lambda: _answers(f"{self.issuer}/.well-known/openid-configuration"), seconds=60)

    def stop(self) -> None:
        self._stop.close()


class Console(Struct, frozen=True):
    """One that runs."""

    url: str
    """Its origin."""
    realm: Realm
    database_url: str
    redis_url: str
    log: Path
    door: Door

    def at(self, path: str) -> str:
        return f"{self.url}/tollgate{path}"


@contextmanager
def running_realm(directory: Path, public_url: str) -> Iterator[Realm]:
    realm = Realm(directory, public_url)
    realm.start()
    try:
        yield realm
    finally:
        realm.stop()


@contextmanager
def running_console(directory: Path, database_url: str, redis_url: str, realm: Realm, url: str) -> Iterator[Console]:
    """`tollgate console` at `url`, over an empty database."""
    asyncio.run(migrate(database_url))
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    environ = {
        **os.environ,
        "TOLLGATE_POLICY": str(policy),
        "TOLLGATE_ISSUER": realm.issuer,
        "TOLLGATE_PUBLIC_URL": url,
        "TOLLGATE_DATABASE_URL": database_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_CONSOLE_PORT": url.rpartition(":")[2],
        "TOLLGATE_CONSOLE_GRPC_PORT": str(free_port()),
        "TOLLGATE_CONSOLE_CLIENT_SECRET": "tollgate-console-secret",
        "TOLLGATE_CONSOLE_KEYS": KEYS,
        "TOLLGATE_CONSOLE_TRUSTED_HOPS": "0",
        "TOLLGATE_CATALOGUE_MODELS": str(MODELS),
    }
    log = directory / "console.log"
    with (
        running_door() as door,
        _running(["-m", "ext_authz", "console"], environ | {"TOLLGATE_CONSOLE_DOOR_URL": door.url}, log),
    ):
        wait_for(lambda: _answers(f"{url}/tollgate/healthz"), seconds=60)
        yield Console(url, realm, database_url, redis_url, log, door)


@contextmanager
def _running(arguments: list[str], environ: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-W", "error", *arguments], env=environ, stdout=out, stderr=out)
    try:
        yield
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        process.terminate()
        process.wait(15)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def running_browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}: on Debian, apt install chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with ExitStack() as parts:
        playwright = parts.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        parts.callback(browser.close)
        yield browser


@contextmanager
def browsing(browser: Browser, *, scripts: bool = True, dark: bool = False, width: int = 1200) -> Iterator[Page]:
    """A page of a person who was never here before."""
    context = browser.new_context(
        java_script_enabled=scripts,
        color_scheme="dark" if dark else "light",
        viewport={"width": width, "height": 800},
        service_workers="block",
    )
    context.set_default_timeout(15_000)
    try:
        yield context.new_page()
    finally:
        context.close()


def sign_in(page: Page, console: Console, name: str, path: str = "/login") -> None:
    """By what a person does."""
    page.goto(console.at(path))
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(name)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{console.url}/**")


_SAME = {"sec-fetch-site": "same-origin"}


_DECISIONS = DecisionIds(SystemClock())


def owner(console: Console, username: str) -> str:
    """The subject of somebody who has signed in."""
    with psycopg.connect(console.database_url) as connection:
        found = connection.execute("SELECT subject FROM owners WHERE username = %s", (username,)).fetchone()
    assert found
    return str(found[0])


def refused(console: Console, username: str, **fields: object) -> str:
    """A refused call of this person in the ledger, as the usage worker would have written it; its decision id."""
    decision, subject = _DECISIONS.mint(), owner(console, username)
    with psycopg.connect(console.database_url) as connection:
        row: dict[str, object] = {
            **dict.fromkeys(COLUMNS, ""),
            "decision_id": decision,
            "reason": "forbidden",
            "code": "model_forbidden",
        }
        row |= {"issuer": console.realm.issuer, "subject": subject, "occurred_at": datetime.now(UTC), "facts": None}
        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        insert = sql.SQL("INSERT INTO usage_events ({}) VALUES ({})")
        values = sql.SQL(", ").join([sql.Placeholder()] * len(COLUMNS))
        connection.execute(insert.format(columns, values), [*(row | fields).values()])
    return decision


class Person:
    """Somebody's browser without a browser: what it sends, a script could send too."""

    def __init__(self, console: Console, name: str = "") -> None:
        """Signed in, where there is a name."""
        self.console = console
        self.http = httpx.Client(base_url=console.url, headers=_SAME, timeout=30, verify=False)
        if name:
            answer = self.sign_in(name)
            assert answer.status_code == 303, answer.text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def sign_in(self, name: str, following: str = "") -> httpx.Response:
        """Through the login form of the identity provider; the answer of the callback."""
        return self.http.get(self.come_back(name, following))

    def come_back(self, name: str, following: str = "") -> str:
        """Where the identity provider sends the person after the login."""
        begun = self.http.get("/tollgate/login", params={"next": following} if following else {})
        assert begun.status_code == 303, begun.text
        with httpx.Client(verify=False) as provider:
            form = provider.get(begun.headers["location"])
            fields = {"csrf": _value(form.text, "csrf"), "username": name, "password": name}
            return provider.post(form.url, data=fields).headers["location"]

    @property
    def cookie(self) -> str:
        return self.http.cookies.get("tollgate") or ""

    def get(self, path: str) -> httpx.Response:
        return self.http.get(f"/tollgate{path}")

    def token_of(self, grant: str) -> str:
        """Of a grant that was just made."""
        found = re.search(r"tgl_[A-Za-z0-9._~-]+", self.get(f"/tokens/{grant}/token").text)
        return found[0] if found else ""

    def csrf(self) -> str:
        return _value(self.get("/logout").text, "csrf")

    def post(self, path: str, csrf: str | None = None, /, **fields: str | list[str]) -> httpx.Response:
        """A form of this session."""
        return self.http.post(f"/tollgate{path}", data={**fields, "csrf": self.csrf() if csrf is None else csrf})

    def make(self, name: str, **fields: str | list[str]) -> str:
        """The id of a new grant."""
        answer = self.post("/tokens/new", None, name=name, days="7", **fields)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"].split("/")[3]


def _value(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found, html
    return found[1]
