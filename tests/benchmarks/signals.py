"""`make bench-signals`: how long after an action in Keycloak a call is refused. Prints a table, p50 and p99 by signal.

A real Keycloak, Postgres, Redis, `tollgate serve` with one worker that is asked all the time, and what receives
signals. The time runs from just before the request to Keycloak that the user or administrator makes, and contains it.
One machine, nothing pinned; every user and session is a new one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner

from ext_authz.signals.commands import signals
from tests.e2e.reload.world import Serving, serving
from tests.e2e.signals.serving import Console, Login, console_at, environ
from tests.keycloak import RunningKeycloak, running_keycloak
from tests.postgres import running_postgres
from tests.services import running_redis

_SETTLES = 60.0
"""Seconds after which a signal is lost."""
_REFRESH = 5
"""Seconds: `jwks_refresh` of the policy, the bound of a key that is disabled."""
POLICY = """\
version: 1
issuers:
  - name: keycloak
    issuer: {issuer}
    jwks_url: {issuer}/protocol/openid-connect/certs
    audiences: [triton-gateway]
    roles_client: triton-gateway
    jwks_refresh: {refresh}s
    jwks_cooldown: 1s
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, path: "/v2/models/{{model}}/infer", methods: [POST], roles: [infer]}}
"""

Timed = Callable[[], httpx.Response]
"""The request to Keycloak that the user or administrator makes; all that it needs is there."""
Prepare = Callable[[Login], Timed]


class Bench:
    """The servers, and how long they take."""

    def __init__(self, keycloak: RunningKeycloak, server: Serving, repetitions: int) -> None:
        self._keycloak = keycloak
        self._admin = keycloak.admin
        self._server = server
        self._repetitions = repetitions

    async def run(self, console: Console, settings: dict[str, str]) -> None:
        for client in ("web-app", "tollgate-console"):
            await asyncio.to_thread(self._admin.send_signals_to, console.origin, client)
        await self._seen("user logs out (back-channel logout)", self._logs_out)
        await self._seen("administrator ends a session (back-channel logout)", self._ends_session)
        await self._seen("administrator ends every session of a user (back-channel logout)", self._signs_out)
        await self._seen("not-before of the realm is pushed (k_push_not_before)", self._pushes)
        await self._seen("everybody is logged out (k_logout)", lambda _: self._by_admin("POST", "/logout-all"))
        await asyncio.to_thread(self._only_events)
        await asyncio.to_thread(CliRunner().invoke, signals, ["connect"], env=settings)
        await self._seen("user logs out (security event, polled)", self._logs_out)
        await self._seen("administrator ends every session of a user (security event, polled)", self._signs_out)
        await self._seen("administrator resets a password (security event, polled)", self._resets)
        await asyncio.to_thread(CliRunner().invoke, signals, ["disconnect"], env=settings)
        keys: list[str] = []
        what, before = (
            f"signing key is disabled (`jwks_refresh: {_REFRESH}s`)",
            lambda: keys.append(self._admin.add_key()),
        )
        await self._seen(what, lambda _: self._disables(keys[-1]), before, times=min(10, self._repetitions))

    def _only_events(self) -> None:
        """Nothing is sent any more, and what was revoked does not refuse the next login."""
        self._admin.push_not_before(0)
        for client in ("web-app", "tollgate-console"):
            self._admin.change_client(client, adminUrl="", attributes={"backchannel.logout.url": ""})

    def _logs_out(self, login: Login) -> Timed:
        form = {"client_id": "web-app", "refresh_token": login.refresh_token}
        url = f"{self._keycloak.issuer}/protocol/openid-connect/logout"
        return lambda: self._admin.http.request("POST", url, data=form, auth=None)

    def _ends_session(self, login: Login) -> Timed:
        return self._by_admin("DELETE", f"/sessions/{login.sid}")

    def _signs_out(self, login: Login) -> Timed:
        return self._by_admin("POST", f"/users/{self._admin.user_id(login.username)}/logout")

    def _pushes(self, _: Login) -> Timed:
        self._by_admin("PUT", "", {"notBefore": int(time.time())})()
        return self._by_admin("POST", "/push-revocation")

    def _resets(self, login: Login) -> Timed:
        document = {"type": "password", "value": "another", "temporary": False}
        return self._by_admin("PUT", f"/users/{self._admin.user_id(login.username)}/reset-password", document)

    def _disables(self, component: str) -> Timed:
        document = self._admin.get(f"/components/{component}")
        document["config"]["enabled"] = ["false"]
        return self._by_admin("PUT", f"/components/{component}", document)

    def _by_admin(self, method: str, path: str, document: object = None) -> Timed:
        headers = {"Authorization": f"Bearer {self._admin.token()}"}
        return lambda: self._admin.http.request(method, path, json=document, headers=headers, auth=None)

    async def _seen(
        self, what: str, prepare: Prepare, before: Callable[[], object] = lambda: None, times: int = 0
    ) -> None:
        turns = range(times or self._repetitions)
        delays = sorted([await asyncio.to_thread(self._delay, prepare, before) for _ in turns])
        p50, p99 = (delays[min(len(delays) - 1, int(rank * len(delays)))] for rank in (0.5, 0.99))
        sys.stdout.write(f"| {what} | {p50:.2f} s | {p99:.2f} s |\n")
        sys.stdout.flush()

    def _delay(self, prepare: Prepare, before: Callable[[], object]) -> float:
        """Of one user: from the action to the first call that is refused."""
        before()
        while not self._allows(login := Login(self._keycloak)):
            time.sleep(0.1)  # a not-before hits what is issued in its second
        act = prepare(login)
        assert self._allows(login)
        began = time.monotonic()
        act().raise_for_status()
        while self._allows(login):
            assert time.monotonic() - began < _SETTLES, "the signal is lost"
            time.sleep(0.001)
        return time.monotonic() - began

    def _allows(self, login: Login) -> bool:
        return self._server.check(login.token).status.code == 0


async def _measure(bench: Bench, keycloak: RunningKeycloak, settings: dict[str, str]) -> None:
    async with console_at(keycloak, settings, console_events_poll=1.0) as console:
        await bench.run(console, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30, help="of each signal")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tollgate-signals-") as scratch, running_postgres() as postgres:
        directory = Path(scratch)
        with running_redis(directory) as redis, running_keycloak(directory / "keycloak") as keycloak:
            _run(chosen, directory, keycloak, postgres.url, redis.url)


def _run(chosen: Any, directory: Path, keycloak: RunningKeycloak, database_url: str, redis_url: str) -> None:  # noqa: ANN401
    def prepare(_: str) -> None:
        (directory / "policy.yaml").write_text(POLICY.format(issuer=keycloak.issuer, refresh=_REFRESH))

    console = directory / "console"
    console.mkdir()
    with serving(directory, redis_url, database_url, prepare=prepare) as server:
        bench = Bench(keycloak, server, chosen.repetitions)
        sys.stdout.write("| signal | p50 | p99 |\n|---|---|---|\n")
        asyncio.run(_measure(bench, keycloak, environ(keycloak, console, database_url, redis_url)))


if __name__ == "__main__":
    main()
