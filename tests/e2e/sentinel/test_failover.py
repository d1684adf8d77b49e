"""Two authorizers under load while Sentinel moves them to another primary.

Nobody revoked gets in, failed calls are 503 and end soon, and what the ledger lacks is counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.db.migrate import migrate
from tests.e2e.failure.mover import moving
from tests.e2e.reload.world import Serving, launched, token
from tests.postgres import PostgresServer, running_postgres
from tests.sentinel import NAME, Group, running_group
from tests.services import REDIS, RedisServer, redis_programs, wait_for

pytestmark = pytest.mark.alone

OK, UNAVAILABLE, REFUSED = 0, 14, 16
TIMEOUT = 0.5
FAILOVER = 8.0
"""Seconds in which a call may fail: 1 until a server counts as dead, the election, and what a busy machine adds."""
PROGRAMS = {name: program for name, program in redis_programs().items() if name in ("redis-6.2", "valkey-9")}


class Answer(Struct, frozen=True):
    asked_at: float
    seconds: float
    code: int
    decision: str


class Caller(threading.Thread):
    """Asks one authorizer for one user again and again."""

    def __init__(self, server: Serving, user: str) -> None:
        super().__init__()
        self.user = user
        self.answers: list[Answer] = []
        self._server = server
        # Issued before any revocation of the tests, also on a slow machine: one issued after it is good.
        self._token = token(sub=user, jti=f"onrtac:{user}", sid=f"of-{user}", iat=int(time.time()) - 60)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):  # leaves the servers some of the processor
            asked_at = time.monotonic()
            answer = self._server.check(self._token)
            decision = answer.dynamic_metadata.fields["decision_id"].string_value
            self.answers.append(Answer(asked_at, time.monotonic() - asked_at, answer.status.code, decision))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def codes(self, since: float = 0) -> Counter[int]:
        return Counter(answer.code for answer in self.answers if answer.asked_at >= since)


class Deployment(Struct):
    group: Group
    postgres: PostgresServer
    servers: list[Serving]
    url: str

    def tollgate(self, *words: str) -> str:
        policy = str(self.servers[0].directory / "policy.yaml")
        environ = {
            "TOLLGATE_DATABASE_URL": self.postgres.url,
            "TOLLGATE_REDIS_URL": self.url,
            "TOLLGATE_POLICY": policy,
        }
        command = [sys.executable, "-m", "ext_authz", *words]
        return subprocess.run(command, env=os.environ | environ, check=True, capture_output=True, text=True).stdout

    def revoke(self, user: str) -> float:
        """When the command had said that it is in force."""
        self.tollgate("revoke", "user", user, "--issuer", "i0")
        return time.monotonic()

    @contextmanager
    def calling(self, *users: str) -> Iterator[list[Caller]]:
        """Every user at every authorizer."""
        callers = [Caller(server, user) for server in self.servers for user in users]
        with ExitStack() as started:
            for caller in callers:
                caller.start()
                started.callback(caller.stop)
            wait_for(lambda: all(caller.answers for caller in callers))
            yield callers

    def not_recorded(self, callers: list[Caller]) -> set[str]:
        """Decisions that were answered other than by 503, and never come to Postgres."""
        answered = {answer.decision for caller in callers for answer in caller.answers if answer.code != UNAVAILABLE}
        with moving(self.url, self.postgres.url):
            wait_for(lambda: not self._waiting(), 60)
        with psycopg.connect(self.postgres.url) as connection:
            rows = connection.execute("SELECT decision_id::text FROM usage_events").fetchall()
            assert connection.execute("SELECT count(*) FROM usage_rejects").fetchone() == (0,)
        return answered - {decision for (decision,) in rows}

    def _waiting(self) -> int:
        with Redis.from_url(self.group.primary.url) as client:
            return int(client.xlen("{tg0}:events"))


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    directories = [tmp_path / "one", tmp_path / "two"]
    for directory in directories:
        directory.mkdir()
    with (
        running_group(tmp_path, program=getattr(request, "param", REDIS)) as group,
        running_postgres() as postgres,
        ExitStack() as stack,
    ):
        asyncio.run(migrate(postgres.url))
        more = {"redis_timeout": TIMEOUT, "revocation_poll": 0.2}
        launching = [launched(each, group.url(), postgres.url, **more) for each in directories]  # type: ignore[arg-type]
        servers = [stack.enter_context(each) for each in launching]
        for server in servers:
            wait_for(server.ready, 60)
        yield Deployment(group, postgres, servers, group.url())


def ensure_refused(callers: list[Caller], since: float = 0) -> None:
    for caller in callers:
        codes = caller.codes(since)
        assert set(codes) <= {REFUSED, UNAVAILABLE}, (caller.user, codes)
        assert codes[REFUSED]


def outage(callers: list[Caller], since: float) -> tuple[int, float, float]:
    """Failed calls, seconds from `since` to the last one's end, and the longest call."""
    failed = [answer for caller in callers for answer in caller.answers if answer.code == UNAVAILABLE]
    last = max((answer.asked_at + answer.seconds for answer in failed), default=since)
    return len(failed), last - since, max(answer.seconds for caller in callers for answer in caller.answers)


def ensure_bounded(callers: list[Caller], since: float, what: str) -> None:
    failed, seconds, longest = outage(callers, since)
    calls = sum(len(caller.answers) for caller in callers)
    said = f"{failed} of {calls} calls got 503, the last after {seconds:.1f} s, the longest took {longest:.2f} s"
    print(f"\n{what}: {said}")  # noqa: T201
    assert seconds <= FAILOVER
    assert longest <= 4 * TIMEOUT


def until_served(callers: list[Caller], since: float) -> float:
    """When every good caller was served again."""
    wait_for(lambda: all(caller.codes(since)[OK] for caller in callers if caller.user == "good"))
    return time.monotonic()


@contextmanager
def kept_from_replicas(group: Group) -> Iterator[RedisServer]:
    """What is written to the primary meanwhile, it has alone."""
    primary = group.primary
    replicas = [server for server in group.servers if server is not primary]
    for replica in replicas:
        replica.send(signal.SIGSTOP)
    with Redis.from_url(primary.url) as client:
        client.client_kill_filter(_type="replica")
    try:
        yield primary
    finally:
        for replica in replicas:
            replica.send(signal.SIGCONT)


@pytest.mark.parametrize("deployment", PROGRAMS.values(), ids=list(PROGRAMS), indirect=True)
def test_a_primary_that_dies_takes_no_revocation_with_it(deployment: Deployment) -> None:
    """Not even one that no replica has."""
    group = deployment.group
    deployment.revoke("revoked")
    with deployment.calling("good", "revoked", "late") as callers:
        good, revoked, late = (callers[number::3] for number in range(3))
        cut_at = time.monotonic()
        with kept_from_replicas(group) as primary:
            revoked_at = deployment.revoke("late")
            primary.kill()
            killed_at = time.monotonic()
        assert group.primary is not primary
        served_at = until_served(good, killed_at + TIMEOUT)
        deployment.revoke("good")
        refused_from = time.monotonic()
        wait_for(lambda: all(caller.codes(refused_from)[REFUSED] > 20 for caller in callers))
        primary.start()
        wait_for(lambda: group.replicas() == 2)
        wait_for(lambda: all(caller.codes(refused_from)[REFUSED] > 100 for caller in callers))
    ensure_refused(revoked)
    ensure_refused(late, since=revoked_at)
    ensure_refused(good, since=refused_from)
    ensure_bounded(callers, killed_at, "primary killed")
    lost = deployment.not_recorded(callers)
    print(f"{len(lost)} answered decisions are not in the ledger")  # noqa: T201
    after = {each.decision: each.code for caller in callers for each in caller.answers if each.asked_at > served_at}
    before = {each.decision for caller in callers for each in caller.answers if each.asked_at < cut_at - 1}
    assert not lost & before
    # A refusal costs the caller nothing, and is dropped where too many wait for Redis: counted, and never more.
    assert {after[decision] for decision in lost & after.keys()} <= {REFUSED}
    dropped = sum(server.metric("tollgate_ledger_dropped_events_total") for server in deployment.servers)
    assert len(lost & after.keys()) <= dropped


def test_a_primary_that_hangs_and_comes_back_serves_nobody(deployment: Deployment) -> None:
    group = deployment.group
    with moving(deployment.url, deployment.postgres.url), deployment.calling("good", "late") as callers:
        primary = group.primary
        primary.send(signal.SIGSTOP)
        stopped_at = time.monotonic()
        assert group.primary is not primary
        until_served(callers[::2], stopped_at + 2 * TIMEOUT)
        revoked_at = deployment.revoke("late")
        primary.send(signal.SIGCONT)
        wait_for(lambda: group.replicas() == 2)
        wait_for(lambda: all(caller.codes(revoked_at)[REFUSED] > 100 for caller in callers[1::2]))
    ensure_refused(callers[1::2], since=revoked_at)
    ensure_bounded(callers, stopped_at, "primary stopped")
    assert deployment.not_recorded(callers) == set()


def test_a_fail_over_by_hand_and_then_no_sentinel_at_all(deployment: Deployment) -> None:
    group = deployment.group
    with deployment.calling("good", "late") as callers:
        primary = group.primary
        begun_at = time.monotonic()
        assert group.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)
        wait_for(lambda: group.primary is not primary)
        until_served(callers[::2], begun_at + 2 * TIMEOUT)
        revoked_at = deployment.revoke("late")
        wait_for(lambda: all(caller.codes(revoked_at)[REFUSED] > 100 for caller in callers[1::2]))
        for sentinel in group.sentinels:
            sentinel.send(signal.SIGKILL)
        since = time.monotonic()
        wait_for(lambda: all(caller.codes(since + 2)[OK] > 50 for caller in callers[::2]))
    assert all(set(caller.codes(since)) == {OK} for caller in callers[::2])
    ensure_refused(callers[1::2], since=revoked_at)
    ensure_bounded(callers, begun_at, "fail-over by hand")


def users(client: Redis) -> list[str]:
    """Who gave this server a command of late; what lies in a pool is asked for before it is used again."""
    others = [each for each in client.client_list(_type="normal") if not each["cmd"].startswith("client")]
    return [each["cmd"] for each in others if int(each["idle"]) < 2]


def test_a_server_that_serves_on_after_it_was_replaced_lets_nobody_in(deployment: Deployment) -> None:
    """As if it were cut off from the Sentinels alone: nobody demotes it."""
    group = deployment.group
    with deployment.calling("good", "late") as callers:
        old, other = group.primary, next(server for server in group.servers if server is not group.primary)
        with Redis.from_url(other.url) as client:
            client.replicaof("NO", "ONE")
        for sentinel in group.sentinels:
            sentinel.monitor(other)
        revoked_at = deployment.revoke("late")
        wait_for(lambda: all(caller.codes(revoked_at)[REFUSED] > 100 for caller in callers[1::2]))
        with Redis.from_url(old.url) as client:
            assert client.info("replication")["role"] == "master"
            wait_for(lambda: not users(client))
    ensure_refused(callers[1::2], since=revoked_at)
    assert all(set(caller.codes()) <= {OK, UNAVAILABLE} for caller in callers[::2])
