"""`tollgate serve` and the usage worker over a Postgres that answers and cannot be used: it is said, and it heals.

Working is what counts as up, not connecting: a rollout with a broken database stops at its first pod.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from redis import Redis

from ext_authz.app import build
from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.ledger.worker import UsageWorker
from ext_authz.settings import Settings, load_settings
from tests import tokens
from tests.e2e.ledger.world import World, world_of
from tests.e2e.ledger.world import event as usage_event
from tests.e2e.reload.world import Serving, launched, policy, serving
from tests.e2e.revocation.world import world_of as revocations_of
from tests.postgres_roles import name_in, role
from tests.services import free_port, wait_for
from tests.waiting import running, until

LEDGER = "SELECT, INSERT, UPDATE ON usage_events, usage_rejects"
SEEN = "SELECT, DELETE ON tokens_seen"


def readyz(server: Serving) -> dict[str, Any]:
    assert server.process.poll() is None
    try:
        found: dict[str, Any] = server.get("/readyz").json()
    except httpx.TransportError:
        return {}
    return found


def cause(server: Serving) -> str:
    return str(readyz(server).get("causes", {}).get("postgres", ""))


def is_up(server: Serving) -> bool:
    return server.metric('tollgate_dependency_up{dependency="postgres"}') == 1


def token() -> str:
    return tokens.mint({"resource_access": {"triton-gateway": {"roles": ["infer"]}}}, now=time.time())


def test_without_tables_then_without_rights_it_is_not_ready_reports_why_and_recovers(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    with (
        role(database_url) as url,
        psycopg.connect(database_url, autocommit=True) as admin,
        launched(tmp_path, redis_url, url, server="grpcio") as server,
    ):
        wait_for(lambda: cause(server) == "no table revocations: run tollgate migrate", 60)
        found = readyz(server)
        assert (found["ready"], found["dependencies"]["postgres"]) == (False, False)
        assert found["reasons"] == ["worker 1 waits for postgres (no table revocations: run tollgate migrate)"]
        assert not is_up(server)
        assert {server.check(token()).error_response.status.code for _ in range(50)} == {503}

        asyncio.run(migrate(database_url))
        grant = f"GRANT SELECT ON revocations TO {name_in(url)}"
        wait_for(lambda: cause(server) == f"the role may not SELECT in revocations: {grant}")
        assert not readyz(server)["ready"]

        admin.execute(grant.encode())
        wait_for(lambda: readyz(server)["ready"])
        wait_for(lambda: server.check(token()).status.code == 0)
        wait_for(lambda: is_up(server))
        assert readyz(server)["dependencies"]["postgres"]
    for event in ("postgres cannot be used", "revocations: postgres fails"):
        said = [line["error"] for line in server.log if line["event"] == event]
        assert len(said) == len(set(said)), "each cause once"


@pytest.mark.parametrize(
    ("wrong", "ready"),
    [("postgresql://nobody_of_that_name@", False), ("postgresql://no.such.host.invalid/x", False), ("away", True)],
)
async def test_a_rollout_with_a_wrong_url_stops_and_an_outage_holds_nothing_up(
    tmp_path: Path, redis_url: str, database_url: str, wrong: str, *, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis holds every revocation: whoever runs with the right URL has filled it, and no check needs Postgres."""
    async with revocations_of(database_url, redis_url) as others, running(mirror := others.mirror()):
        await mirror.synced.wait()
    if wrong == "away":
        url = f"postgresql://postgres@127.0.0.1:{free_port()}/tollgate"
    else:
        url = wrong + database_url.partition("@")[2] if wrong.endswith("@") else wrong
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "policy.yaml").write_text(policy("http://127.0.0.1:1/certs"))
    app = build(
        load_settings(Settings, {"policy": tmp_path / "policy.yaml", "database_url": url, "redis_url": redis_url})
    )
    await app.start()
    try:

        async def found_out() -> bool:
            return app.report().causes.get("postgres", "not asked yet") != "not asked yet"

        await until(found_out)
        report = app.report()
        assert (report.up["postgres"], report.up["redis"]) == (False, True)
        assert ("postgres" not in report.lacking) is ready
    finally:
        await app.stop()


def ledger(server: Serving) -> tuple[bool, str, float]:
    """Whether it works and why not, as /readyz says; and the gauge."""
    found = readyz(server)
    works = found.get("dependencies", {}).get("ledger", True)
    gauge = server.metric('tollgate_dependency_up{dependency="ledger"}')
    return works, found.get("causes", {}).get("ledger", ""), gauge


def test_a_full_ledger_is_a_dependency_that_does_not_work_and_heals(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    full, stream = "the ledger stream reached its bound: is the usage worker running?", redis_keys.events()
    (tmp_path / "next").mkdir()
    with (
        Redis.from_url(redis_url) as redis,
        serving(tmp_path, redis_url, database_url, ledger_max_events=1000) as server,
    ):
        assert ledger(server) == (True, "", 1)
        with redis.pipeline() as pipeline:
            for _ in range(1000):
                pipeline.xadd(stream, {"e": "{}", "o": 0})
            pipeline.execute()
        assert server.check(token()).error_response.status.code == 503
        wait_for(lambda: ledger(server) == (False, full, 0))
        assert readyz(server)["dependencies"]["redis"]
        assert readyz(server)["ready"], "every replica shares it: one that has been ready goes on saying 503"
        with launched(tmp_path / "next", redis_url, database_url, ledger_max_events=1000) as rollout:
            waits = f"worker 1 waits for ledger ({full})"
            wait_for(lambda: readyz(rollout).get("reasons") == [waits], 60)
            assert not readyz(rollout)["ready"]
            redis.delete(stream)
            wait_for(lambda: readyz(rollout)["ready"])
        wait_for(lambda: ledger(server) == (True, "", 1))
        assert server.check(token()).status.code == 0
    said = [line["error"] for line in server.log if line["event"] == "settlement: running out of room"]
    assert said == ["the ledger stream has reached 100% of its bound: is the usage worker running?"]


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url) as world:
        yield world


@pytest.mark.parametrize(
    ("grants", "missing"),
    [
        (
            (),
            "the role may not SELECT, INSERT, UPDATE in usage_events: GRANT SELECT, INSERT, UPDATE ON usage_events TO",
        ),
        (
            ("GRANT SELECT, INSERT, UPDATE ON usage_events TO {role}",),
            "the role may not INSERT in usage_rejects: GRANT",
        ),
        (
            ("GRANT SELECT, INSERT ON usage_events TO {role}",),
            "the role may not UPDATE in usage_events: GRANT UPDATE ON",
        ),
        (
            (f"GRANT {LEDGER} TO {{role}}",),
            "the role may not SELECT, DELETE in tokens_seen: GRANT SELECT, DELETE ON tokens_seen TO",
        ),
        (
            (f"GRANT {LEDGER} TO {{role}}", "GRANT DELETE ON tokens_seen TO {role}"),
            "the role may not SELECT in tokens_seen: GRANT SELECT ON tokens_seen TO",
        ),
    ],
)
async def test_a_usage_worker_without_a_right_reports_it_before_there_is_an_event(
    world: World, grants: tuple[str, ...], missing: str
) -> None:
    with role(world.database_url, *grants) as url, psycopg.connect(world.database_url, autocommit=True) as admin:
        worker = world.worker()
        worker._url = url
        async with running(worker):

            async def noticed() -> bool:
                return worker.causes().get("postgres", "").startswith(missing)

            await until(noticed)
            admin.execute(f"GRANT {LEDGER} TO {name_in(url)}; GRANT {SEEN} TO {name_in(url)}".encode())
            await world.record(usage_event())
            await until(world.drained)
            await until(lambda: _without_cause(worker))


async def _without_cause(worker: UsageWorker) -> bool:
    return worker.causes() == {}


async def test_the_process_of_a_usage_worker_is_ready_when_it_can_do_its_work(world: World) -> None:
    port = free_port()
    with role(world.database_url) as url, usage_worker(url, world.redis_url, port):

        async def asked(status: int) -> bool:
            try:
                answer = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/readyz")
            except httpx.TransportError:
                return False
            return answer.status_code == status and answer.json()["ready"] is (status == 200)

        await until(lambda: asked(503))
        with psycopg.connect(world.database_url, autocommit=True) as admin:
            admin.execute(f"GRANT {LEDGER} TO {name_in(url)}; GRANT {SEEN} TO {name_in(url)}".encode())
        await until(lambda: asked(200))


@contextmanager
def usage_worker(database_url: str, redis_url: str, port: int) -> Iterator[None]:
    environ = {"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_REDIS_URL": redis_url}
    command = [sys.executable, "-m", "ext_authz", "usage-worker", "--metrics-port", f"{port}"]
    process = subprocess.Popen(command, env=os.environ | environ)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0


async def test_a_full_disk_holds_events_back_and_loses_none(world: World) -> None:
    """Postgres says so by SQLSTATE 53100, here at the word of a trigger."""
    with psycopg.connect(world.database_url, autocommit=True) as admin:
        admin.execute("""
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100';
            END $$;
            CREATE TRIGGER full_disk BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION full_disk();
        """)
        await world.record(*(usage_event() for _ in range(50)))
        async with running(worker := world.worker()):

            async def noticed() -> bool:
                return worker.causes() == {"postgres": "its disk is full: make room there"}

            await until(noticed)
            admin.execute("DROP TRIGGER full_disk ON usage_events")
            await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (50, [])
