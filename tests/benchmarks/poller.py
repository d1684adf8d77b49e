"""`make bench-poller`: how soon what happens at a real Keycloak is effective, and what asking costs Keycloak.

A real Keycloak, Postgres, Redis, `tollgate serve` with one worker that is asked all the time, and the poller with its
default settings. Delays run from just before the administrator's request to the first refused call. One machine,
nothing pinned; each user is a new one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

from ext_authz.poller import state_checker
from ext_authz.poller.metrics import POLL_REQUESTS
from tests.e2e.poller.test_keycloak import Subject
from tests.e2e.poller.world import World, issuer_of, world_of
from tests.e2e.reload.world import Serving, serving
from tests.keycloak import RunningKeycloak, running_keycloak
from tests.postgres import running_postgres
from tests.realm_admin import CONSOLE
from tests.services import running_redis
from tests.waiting import running, until

POLL = 5.0
"""The default of TOLLGATE_CONSOLE_POLL."""

TEAM = "/team-vision"
"""Its members have the role infer."""
POLICY = """\
version: 1
issuers:
  - name: main
    issuer: {issuer}
    jwks_url: {issuer}/protocol/openid-connect/certs
    audiences: [triton-gateway]
    roles_client: triton-gateway
resource: {{url: https://models.example}}
tokens: {{jwks_url: "{own}", plain_http: true, audiences: [triton-gateway], administrators: {{role: nobody}}}}
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, path: "/v2/models/{{model}}/infer", methods: [POST], roles: [infer]}}
"""

Act = Callable[[Subject], None]


class Bench:
    """The servers, and how long they take."""

    def __init__(self, world: World, keycloak: RunningKeycloak, server: Serving, repetitions: int) -> None:
        self._world, self._keycloak, self._server, self._repetitions = world, keycloak, server, repetitions

    async def delays(self) -> None:
        admin = self._keycloak.admin
        await self._delay("user disabled", lambda who: admin.change(who.name, enabled=False))
        await self._delay("user deleted", lambda who: admin.delete(who.name))
        await self._delay("password reset", lambda who: admin.reset_password(who.name, "another"))
        await self._delay("session ended", lambda who: admin.end_session(who.token["sid"]))
        await self._delay("role removed", lambda who: admin.remove_client_role(who.name, "infer"))
        await self._delay("group left", lambda who: admin.leave(who.name, TEAM), groups=[TEAM])

    async def _delay(self, what: str, act: Act, groups: Sequence[str] = ()) -> None:
        found, roles = [], [] if groups else ["infer"]
        for _ in range(self._repetitions):
            who = await asyncio.to_thread(partial(Subject, self._world, self._keycloak, *roles, groups=groups))
            await who.known()
            assert self._server.check(who.raw).status.code == 0
            began = time.monotonic()
            await asyncio.to_thread(act, who)
            await asyncio.to_thread(self._wait_until_refused, who)
            found.append(time.monotonic() - began)
        p50, p99 = (sorted(found)[min(len(found) - 1, int(rank * len(found)))] for rank in (0.5, 0.99))
        _say(f"| {what} | {p50:.1f} s | {p99:.1f} s |")

    def _wait_until_refused(self, who: Subject) -> None:
        while self._server.check(who.raw).status.code == 0:
            time.sleep(0.005)

    async def _without(self, who: Subject) -> bool:
        return await who.is_(enabled=True, roles=set())

    async def idle(self) -> None:
        ((known,),) = await self._world.rows("SELECT count(*) FROM polled_owners")
        await self._rate(f"{known} known users, nothing happens", 60)

    async def add(self, users: int) -> list[str]:
        return await asyncio.to_thread(self._ids, users)

    async def cost(self, ids: list[str]) -> None:
        await self._world.seen(*ids)
        await self._rate(f"{len(ids)} users who call for the first time", 60)
        await self._world.rows("UPDATE polled_owners SET priority = 0, checked_at = now() RETURNING 1")
        await self._world.rows("UPDATE polled_owners SET checked_at = now() - interval '1 day' RETURNING 1")
        await self._rate(f"{len(ids)} known users, nothing happens", 60)

    async def burst(self, users: int) -> None:
        """As many at once lose a role."""
        async with asyncio.timeout(600):
            losing = [await asyncio.to_thread(Subject, self._world, self._keycloak, "infer") for _ in range(users)]
        for who in losing:
            await self._world.seen(who.id)
            await who.known()
        asked, began = _requests(), time.monotonic()
        for who in losing:
            await asyncio.to_thread(self._keycloak.admin.remove_client_role, who.name, "infer")
        acted = time.monotonic()
        for who in losing:
            await until(lambda who=who: self._without(who), seconds=60)  # type: ignore[misc]
        ended = time.monotonic()
        rate = (_requests() - asked) / (ended - began)
        late = f"{ended - acted:.1f} s after the last"
        _say(f"| {users} users lose a role within {acted - began:.0f} s | {rate:.1f}/s | {late} |")

    async def _rate(self, what: str, seconds: float) -> None:
        java = _java()
        asked, used, began = _requests(), sum(java.cpu_times()[:2]), time.monotonic()
        await asyncio.sleep(seconds)
        spent = time.monotonic() - began
        rate, cpu = (_requests() - asked) / spent, (sum(java.cpu_times()[:2]) - used) / spent
        _say(f"| {what} | {rate:.1f}/s | {cpu * 100:.1f} % of a core |")

    def _ids(self, users: int) -> list[str]:
        """Of all users, with so many new ones."""
        self._add(users)
        pages = [self._keycloak.admin.get("/users", first=first, max=500) for first in range(0, users + 500, 500)]
        return [user["id"] for page in pages for user in page]

    def _add(self, users: int) -> None:
        for start in range(0, users, 500):
            made = [{"username": f"many-{number:05}", "enabled": True} for number in range(start, start + 500)]
            document = {"ifResourceExists": "SKIP", "users": made}
            self._keycloak.admin.http.post("/partialImport", json=document, timeout=300).raise_for_status()


def _requests() -> float:
    return float(POLL_REQUESTS._value.get())


def _java() -> psutil.Process:
    own = psutil.Process().children(recursive=True)
    return next(process for process in own if process.name() == "java")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _run(keycloak: RunningKeycloak, stores: tuple[str, str], server: Serving, chosen: argparse.Namespace) -> None:
    issuer = issuer_of(keycloak.url, "tollgate")
    async with world_of(*stores, issuer, CONSOLE) as world:
        bench = Bench(world, keycloak, server, chosen.repetitions)
        seldom, state_checker.LEARN = state_checker.LEARN, 0.5  # or each repetition would wait for it
        async with running(world.poller(poll=POLL, seconds=6)):
            await bench.delays()
            await bench.burst(chosen.burst)
            state_checker.LEARN = seldom
            await bench.idle()
        ids = await bench.add(chosen.users)
        async with running(world.poller(poll=POLL, seconds=6)):
            await bench.cost(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30, help="of each delay")
    parser.add_argument("--users", type=int, default=10_000, help="known to the poller")
    parser.add_argument("--burst", type=int, default=50, help="users who lose a role at once")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tollgate-poller-") as scratch, running_postgres() as postgres:
        directory = Path(scratch)
        with running_redis(directory) as redis, running_keycloak(directory / "keycloak") as keycloak:

            def prepare(own: str) -> None:
                (directory / "policy.yaml").write_text(POLICY.format(issuer=keycloak.issuer, own=own))

            with serving(directory, redis.url, postgres.url, prepare=prepare) as server:
                asyncio.run(_run(keycloak, (postgres.url, redis.url), server, chosen))


if __name__ == "__main__":
    main()
