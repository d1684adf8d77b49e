"""One console and one browser for all tests here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser
from psycopg import sql
from pydantic import SecretStr
from starlette.routing import Route

from ext_authz.clock import SystemClock
from ext_authz.console.pages import Pages
from ext_authz.console.parts import Parts
from ext_authz.console_settings import ConsoleSettings
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from tests.e2e.billing.world import pay
from tests.e2e.console.world import (
    KEYS,
    POLICY,
    Console,
    Person,
    owner,
    refused,
    running_browser,
    running_console,
    running_realm,
)
from tests.services import free_port, running_redis


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while it is open, nothing else in this process can use asyncio."""
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def console(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[Console]:
    """With a Redis of its own: a console asks its Redis every second whether it can be written."""
    directory, url = tmp_path_factory.mktemp("console"), f"http://127.0.0.1:{free_port()}"
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database_url = postgres_server.replace("/postgres?", f"/{name}?")
    (directory / "redis").mkdir()
    with (
        running_redis(directory / "redis") as redis,
        running_realm(directory, url) as realm,
        running_console(directory, database_url, redis.url, realm, url) as console,
    ):
        yield console


@pytest.fixture
def visit(console: Console) -> Iterator[Callable[..., Person]]:
    """Somebody with a new session, by name; without one, somebody who is not signed in."""
    with ExitStack() as stack:
        yield lambda name="": stack.enter_context(Person(console, name))


@pytest.fixture(scope="package")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Of the console."""
    file = tmp_path_factory.mktemp("policy") / "policy.yaml"
    file.write_text(POLICY)
    url = "http://127.0.0.1:1"
    return load_policy(file, {"TOLLGATE_ISSUER": f"{url}/realms/x", "TOLLGATE_PUBLIC_URL": url})


@pytest.fixture(scope="package")
def routes(policy: Policy) -> list[Route]:
    """Of all pages and actions."""
    settings = ConsoleSettings.model_construct(
        console_keys=SecretStr(KEYS),
        console_client_secret=SecretStr("x"),
        console_issuer="",
        jwks_ca_file=None,
        admin_socket=None,
        console_door_url="",
        admin_port=9001,
    )
    nothing: dict[str, Any] = dict.fromkeys(Parts.__struct_fields__)
    known = {"settings": settings, "policy": policy, "own": policy.tokens, "clock": SystemClock()}
    return Pages(Parts(**nothing | known)).routes()


@pytest.fixture
def things(console: Console, visit: Callable[..., Person]) -> Iterator[dict[str, str]]:
    """What erin has, by the name of the parameter that names it in a path."""
    erin, name = visit("erin"), f"erins-{uuid.uuid4().hex[:8]}"
    grant = erin.make(name)
    assert erin.post("/service-accounts", name=name, group="/team-vision").status_code == 303
    decision = refused(console, "erin", model=name)
    pay(console.database_url, name, owner(console, "erin"))
    sent = {"collection": "dataset", "name": name, "version": "1.0", "accept_terms": "1"}
    item = erin.post("/catalogue/publish", **sent).headers["location"].split("/")[4]
    account = {"account": name, "item": item}
    yield {"grant": grant, "name": name, "decision": decision, "model": "digits", **account}
    erin.post("/tokens/revoke-all")
