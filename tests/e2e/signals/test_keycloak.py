"""What Keycloak 26.7 sends is obeyed: logout tokens, admin callbacks, security events polled and pushed. The first two
are sent by the embedded realm, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from ext_authz.clock import SystemClock
from ext_authz.errors import Denied
from ext_authz.revocation.entry import Kind
from ext_authz.signals.commands import signals
from tests.e2e.realm.serving import on_a_thread
from tests.e2e.signals.serving import Console, Login, console_at, environ
from tests.keycloak import RunningKeycloak
from tests.realm_admin import CONSOLE, RealmAdmin
from tests.waiting import until

BOTH = pytest.mark.parametrize(
    "realm", ["embedded", pytest.param("keycloak", marks=pytest.mark.keycloak)], indirect=True
)
REAL = pytest.mark.parametrize("realm", [pytest.param("keycloak", marks=pytest.mark.keycloak)], indirect=True)


@pytest.fixture
def realm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningKeycloak]:
    if request.param == "keycloak":
        yield request.getfixturevalue("keycloak")
        return
    with on_a_thread(tmp_path, SystemClock()) as url, RealmAdmin(url) as admin:
        yield RunningKeycloak(url, admin, tmp_path)


@pytest.fixture
def settings(realm: RunningKeycloak, tmp_path: Path, database_url: str, redis_url: str) -> dict[str, str]:
    return environ(realm, tmp_path, database_url, redis_url)


async def tollgate(settings: dict[str, str], *words: str) -> Result:
    """A command, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, signals, words, env=settings)


async def does(work: Callable[..., Any], *values: Any) -> Any:  # noqa: ANN401
    """What waits for Keycloak, which waits for us."""
    return await asyncio.to_thread(work, *values)


@BOTH
async def test_logout_tokens(realm: RunningKeycloak, settings: dict[str, str]) -> None:
    async with console_at(realm, settings) as console:
        await does(realm.admin.send_signals_to, console.origin, "web-app")
        gone, ended, other = Login(realm), Login(realm), Login(realm)
        identity = await console.identity(gone.token)
        await does(gone.log_out)
        assert await console.revoked(identity) is Kind.SESSION  # when Keycloak has answered, it is in force
        identity = await console.identity(ended.token)
        await does(realm.admin.end_session, identity.session)
        assert await console.revoked(identity) is Kind.SESSION
        sessions = [other, Login(realm, other.username)]
        await does(realm.admin.log_out, other.username)
        for each in sessions:
            assert await console.revoked(await console.identity(each.token)) is Kind.SESSION


@BOTH
async def test_admin_callbacks(realm: RunningKeycloak, settings: dict[str, str]) -> None:
    async with console_at(realm, settings) as console:
        for client in ("web-app", "tollgate-console"):
            await does(realm.admin.send_signals_to, console.origin, client)
        identity = await console.identity(Login(realm).token)
        answer = await does(realm.admin.push_not_before, identity.issued_at)
        assert len(answer["successRequests"]) == 2
        assert await console.revoked(identity) is Kind.CLIENT
        assert {entry.kind for entry in await console.world.store.entries()} == {Kind.CLIENT, Kind.ISSUER}
        await does(realm.admin.push_not_before, 0)
        assert await console.revoked(identity) is Kind.CLIENT


@REAL
async def test_keys(realm: RunningKeycloak, settings: dict[str, str]) -> None:
    async with console_at(realm, settings) as console:
        await does(realm.admin.send_signals_to, console.origin, "web-app")
        old = await console.identity(Login(realm).token)
        key = await does(realm.admin.add_key)
        login, kept = Login(realm), Login(realm)
        identity = await console.identity(login.token)  # by a new key, which was fetched at once
        await does(login.log_out)  # the logout token is signed with it, too
        assert await console.revoked(identity) is Kind.SESSION
        assert await console.identity(kept.token)
        await does(realm.admin.disable_key, key)

        async def refused() -> bool:
            try:
                return not await console.identity(kept.token)
            except Denied as refusal:
                return refusal.code == "key_unknown"

        await until(refused, 20)
        assert await console.revoked(old) is None


@REAL
async def test_security_events(realm: RunningKeycloak, settings: dict[str, str]) -> None:
    admin = realm.admin
    async with console_at(realm, settings) as console:
        assert "not connected" in (await tollgate(settings, "status")).output
        assert (await tollgate(settings, "connect")).output.startswith("connected: stream ")
        assert (await tollgate(settings, "connect")).output.startswith("connected as before: stream ")
        one, all_of_them, changed = Login(realm), Login(realm), Login(realm)
        cases = [
            (one, Kind.SESSION, one.log_out),
            (all_of_them, Kind.USER, lambda: admin.log_out(all_of_them.username)),
            (changed, Kind.USER, lambda: admin.reset_password(changed.username, "another")),
        ]
        for login, kind, what in cases:
            identity = await console.identity(login.token)
            await does(what)
            assert await console.until_revoked(identity) is kind
        assert (await tollgate(settings, "status")).exit_code == 0
        assert console.signals.causes() == {}
        await replaced(console, settings, realm)
        assert (await tollgate(settings, "disconnect")).output.startswith("disconnected: stream ")
        assert (await tollgate(settings, "disconnect")).output == "it was not connected\n"


async def replaced(console: Console, settings: dict[str, str], realm: RunningKeycloak) -> None:
    """Somebody deletes the stream in Keycloak: the console makes a new one, and hears what happens from then on."""
    before = (await tollgate(settings, "status")).output
    token = await does(realm.admin.__class__(realm.url, client=CONSOLE).token, "ssf.manage ssf.read")
    url = f"{realm.issuer}/ssf/transmitter/streams"
    headers = {"Authorization": f"Bearer {token}"}
    (await does(lambda: httpx.delete(url, headers=headers))).raise_for_status()

    async def again() -> bool:
        status = await tollgate(settings, "status")
        return status.exit_code == 0 and status.output != before

    await until(again)
    login = Login(realm)
    identity = await console.identity(login.token)
    await does(login.log_out)
    await console.until_revoked(identity)


@REAL
async def test_pushed_security_events(realm: RunningKeycloak, settings: dict[str, str]) -> None:
    async with console_at(realm, settings) as console:
        events = f"{console.origin}/tollgate/signals/events"
        attributes = {"ssf.allowedDeliveryMethods": "poll##push", "ssf.validPushUrls": events}
        await does(lambda: realm.admin.change_client("tollgate-console", attributes=attributes))
        connected = await tollgate(settings, "connect", "--push", events)
        assert connected.output.startswith("connected: stream "), connected.output
        login = Login(realm)
        identity = await console.identity(login.token)
        await does(realm.admin.log_out, login.username)
        assert await console.until_revoked(identity, 60) is Kind.USER
        assert (await tollgate(settings, "disconnect")).exit_code == 0
