"""`tollgate serve` loses its dependencies under a policy that bears it: how many get in, who never, for how long.

Everybody calls with tokens of the identity provider and of our own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import httpx
import psycopg
import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.errors import Unavailable
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from tests.e2e.failure.load import (
    EXHAUSTED,
    OK,
    OWN,
    REFUSED,
    UNAVAILABLE,
    calling,
    ensure_refused,
    of,
    person,
    until,
)
from tests.e2e.failure.mover import moving
from tests.e2e.reload.world import Serving, policy, serving
from tests.e2e.tokens.issuing import Issuing, published, with_tokens
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis, wait_for

LIMIT, MANY = 5, 1_000_000


class Deployment(Struct):
    """One worker, and what it depends on."""

    server: Serving
    redis: RedisServer
    postgres: PostgresServer
    issuing: Issuing
    good: Iterator[str]
    """Tokens of both kinds in turn, of one user."""
    ended: dict[str, str]
    """Revoked tokens, by what was revoked."""
    revoked: Iterator[str]
    """These in turn."""

    def codes(self, tokens: Iterator[str], times: int) -> Counter[int]:
        return Counter(answer.status.code for answer in self.answers(tokens, times))

    def answers(self, tokens: Iterator[str], times: int) -> list[CheckResponse]:
        return [self.server.check(next(tokens)) for _ in range(times)]

    def state(self) -> dict[str, str]:
        """What is away, as /readyz tells it."""
        found: dict[str, str] = self.server.get("/readyz").json().get("degraded", {})
        return found

    def events(self) -> list[str]:
        return [line["event"] for line in self.server.log if line["event"].startswith("degraded")]


def bearing(jwks: str, failure: str, rate: int = LIMIT) -> str:
    return with_tokens(policy(jwks, rate=rate) + f"failure: {failure}\n", jwks)


@contextmanager
def deployed(directory: Path, failure: str, rate: int = LIMIT) -> Iterator[Deployment]:
    with running_redis(directory) as redis, running_postgres() as postgres:
        stores = (postgres.url, redis.url)

        def prepare(jwks: str) -> None:
            (directory / "policy.yaml").write_text(bearing(jwks, failure, rate))
            published(*stores, directory)

        asked = serving(directory, redis.url, postgres.url, prepare=prepare, redis_timeout=0.5, revocation_poll=0.2)
        with asked as server:
            issuing = published(*stores, directory)
            good, one, other, gone = (person(issuing, name) for name in ("good", "one", "other", "gone"))
            with psycopg.connect(postgres.url) as connection:
                connection.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('session', 'i0', 'of-one')")
            issuing.revokes(other.actor, other.issued)
            assert issuing.revokes_user("gone").everywhere
            ended = {"session": one.keycloak, "grant": other.own, "owner": gone.own}
            both = cycle(good.tokens.values())
            deployment = Deployment(server, redis, postgres, issuing, both, ended, cycle(ended.values()))
            wait_for(lambda: deployment.codes(deployment.revoked, 3) == {REFUSED: 3})
            yield deployment


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """Indirect parameter: the policy's `failure`."""
    with deployed(tmp_path, request.param) as running:
        yield running


def recorded(deployment: Deployment, answers: list[CheckResponse]) -> dict[str, tuple[str, str]]:
    """Decision id to reason and what it was decided without, as far as it is in the ledger."""
    ids = [answer.dynamic_metadata.fields["decision_id"].string_value for answer in answers]
    query = "SELECT decision_id::text, reason, degraded FROM usage_events WHERE decision_id = ANY(%s::uuid[])"
    with psycopg.connect(deployment.postgres.url) as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(query, (ids,)).fetchall()}


@pytest.mark.parametrize("deployment", ["{redis: local, grace: 8s}"], indirect=True)
def test_local_is_bounded_in_number_and_in_time_and_all_of_it_is_billed(deployment: Deployment) -> None:
    before = deployment.answers(deployment.good, 2)
    deployment.redis.kill()
    during = deployment.answers(deployment.good, LIMIT + 4)
    revoked = deployment.answers(deployment.revoked, 3)
    assert [answer.status.code for answer in before] == [OK] * 2
    assert [answer.status.code for answer in during] == [OK] * LIMIT + [EXHAUSTED] * 4
    assert [answer.status.code for answer in revoked] == [REFUSED] * 3
    assert {answer.dynamic_metadata.fields["degraded"].string_value for answer in during} == {"redis"}
    assert not any("degraded" in header.header.key for header in during[0].ok_response.response_headers_to_add)
    wait_for(lambda: deployment.state().get("redis", "").startswith("local"))
    assert deployment.server.metric('tollgate_degraded{dependency="redis",mode="local"}') == 1
    assert 0 < deployment.server.metric('tollgate_degraded_remaining_seconds{dependency="redis"}') <= 8

    wait_for(lambda: deployment.codes(deployment.good, 1)[UNAVAILABLE])
    wait_for(lambda: deployment.state() == {"redis": "deny"})
    assert deployment.codes(deployment.good, 5) == {UNAVAILABLE: 5}
    assert deployment.codes(deployment.revoked, 1) == {UNAVAILABLE: 1}

    deployment.redis.start()
    wait_for(lambda: deployment.state() == {})
    assert deployment.codes(deployment.good, 2) == {OK: 2}, "what was given out without Redis is not counted in it"
    assert deployment.codes(deployment.revoked, 3) == {REFUSED: 3}
    assert deployment.events() == [
        "degraded: a dependency does not answer",
        "degraded: a grace is over",
        "degraded: the dependency answers again",
    ]
    with moving(deployment.redis.url, deployment.postgres.url):
        every = before + during + revoked
        wait_for(lambda: len(recorded(deployment, every)) == len(every))
    assert Counter(recorded(deployment, every).values()) == {
        ("allowed", ""): 2,
        ("allowed", "redis"): LIMIT,
        ("over_limit", "redis"): 4,
        ("revoked", "redis"): 3,
    }


@pytest.mark.parametrize("deployment", ["{redis: local, postgres: local, grace: 8s}"], indirect=True)
def test_without_redis_and_postgres_a_worker_goes_by_what_it_knows(deployment: Deployment) -> None:
    began = time.time()
    wait_for(lambda: deployment.server.metric("tollgate_revocation_known_timestamp_seconds") > began)
    deployment.redis.kill()
    deployment.postgres.kill()
    assert deployment.codes(deployment.revoked, 3) == {REFUSED: 3}
    assert deployment.codes(deployment.good, LIMIT + 1) == {OK: LIMIT, EXHAUSTED: 1}
    wait_for(lambda: deployment.state().keys() == {"redis", "postgres"})
    wait_for(lambda: deployment.codes(deployment.good, 1)[UNAVAILABLE])
    deployment.postgres.start()
    deployment.redis.start()
    wait_for(lambda: deployment.codes(deployment.good, 2)[OK] == 2)
    assert deployment.codes(deployment.revoked, 3) == {REFUSED: 3}


@pytest.mark.parametrize("deployment", ["{redis: allow, postgres: deny}"], indirect=True)
def test_allow_counts_nothing_but_still_asks_who_is_revoked(deployment: Deployment) -> None:
    deployment.redis.kill()
    assert deployment.codes(deployment.good, 3 * LIMIT) == {OK: 3 * LIMIT}
    assert deployment.codes(deployment.revoked, 3) == {REFUSED: 3}
    deployment.postgres.kill()
    assert deployment.codes(deployment.good, 2) == {UNAVAILABLE: 2}
    deployment.postgres.start()
    wait_for(lambda: deployment.codes(deployment.good, 2)[OK] == 2)


@pytest.mark.parametrize("deployment", ["{redis: deny}"], indirect=True)
def test_a_reload_changes_the_failure_mode_during_an_outage(deployment: Deployment) -> None:
    deployment.redis.kill()
    assert deployment.codes(deployment.good, 2) == {UNAVAILABLE: 2}
    (deployment.server.directory / "policy.yaml").write_text(bearing(deployment.server.jwks, "{redis: allow}"))
    assert deployment.server.reload().status_code == httpx.codes.OK
    assert deployment.codes(deployment.good, 2) == {OK: 2}


def test_a_restart_a_flush_and_a_kill_under_load_let_nobody_in_who_is_revoked(tmp_path: Path) -> None:
    """With `deny`. Revoked meanwhile: users, and grants of API tokens; with Redis away, Postgres alone holds it."""
    with deployed(tmp_path, "{redis: deny, postgres: deny}", rate=MANY) as deployment:
        issuing, redis = deployment.issuing, deployment.redis
        people = {name: person(issuing, name) for name in ("steady", "late", "script", "away", "job")}
        tokens = {
            name: who.tokens if name in ("steady", "late", "away") else {OWN: who.own} for name, who in people.items()
        }
        with calling([deployment.server], {**tokens, "ended before": deployment.ended}) as callers:
            deployment.postgres.kill()
            assert not issuing.revokes_user("late").postgres
            deployment.postgres.start()
            with Redis.from_url(redis.url) as client:
                client.flushall()
            assert issuing.revokes_user("late").everywhere
            issuing.revokes(people["script"].actor, people["script"].issued)
            flushed_at = time.monotonic()
            until(flushed := of(callers, "late", "script"), REFUSED, flushed_at, 25)
            until(of(callers, "steady", "away", "job"), OK, flushed_at, 25)
            redis.kill()
            receipt = issuing.revokes_user("away")
            assert (receipt.postgres, receipt.redis) == (True, False)
            with pytest.raises(Unavailable, match="redis"):
                issuing.revokes(people["job"].actor, people["job"].issued)
            killed_at = time.monotonic()
            redis.start()
            until(killed := of(callers, "away", "job"), REFUSED, killed_at, 25)
            until(steady := of(callers, "steady"), OK, time.monotonic(), 25)
    ensure_refused(of(callers, "ended before"))
    ensure_refused(flushed, since=flushed_at)
    ensure_refused(killed, since=killed_at)
    assert all(set(caller.codes()) == {OK, UNAVAILABLE} for caller in steady)
