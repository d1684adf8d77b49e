"""`tollgate serve` loses its dependencies under a policy that bears it: how many get in, who never, for how long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from msgspec import Struct

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from tests.e2e.failure.mover import moving
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis, wait_for

OK, EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED = 0, 8, 14, 16
LIMIT = 5


class Deployment(Struct):
    """One worker, and what it depends on."""

    server: Serving
    redis: RedisServer
    postgres: PostgresServer
    good: str
    revoked: str

    def codes(self, token: str, times: int) -> Counter[int]:
        return Counter(answer.status.code for answer in self.answers(token, times))

    def answers(self, token: str, times: int) -> list[CheckResponse]:
        return [self.server.check(token) for _ in range(times)]

    def state(self) -> dict[str, str]:
        """What is away, as /readyz tells it."""
        found: dict[str, str] = self.server.get("/readyz").json().get("degraded", {})
        return found

    def events(self) -> list[str]:
        return [line["event"] for line in self.server.log if line["event"].startswith("degraded")]


def bearing(jwks: str, failure: str) -> str:
    return policy(jwks, rate=LIMIT) + f"failure: {failure}\n"


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """Indirect parameter: the policy's `failure`. The session of one of the two callers is revoked."""

    def prepare(jwks: str) -> None:
        (tmp_path / "policy.yaml").write_text(bearing(jwks, request.param))

    with running_redis(tmp_path) as redis, running_postgres() as postgres:
        stores = (redis.url, postgres.url)
        with serving(tmp_path, *stores, prepare=prepare, redis_timeout=0.5, revocation_poll=0.2) as server:
            good, revoked = token(sub="good", sid="s1", jti="a:1"), token(sub="revoked", sid="s2", jti="a:2")
            with psycopg.connect(postgres.url) as connection:
                connection.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('session', 'i0', 's2')")
            deployment = Deployment(server, redis, postgres, good, revoked)
            wait_for(lambda: deployment.codes(revoked, 1)[UNAUTHENTICATED])
            yield deployment


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
    assert [answer.status.code for answer in revoked] == [UNAUTHENTICATED] * 3
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
    assert deployment.codes(deployment.good, 1) == {OK: 1}, "what was given out without Redis is not counted in it"
    assert deployment.codes(deployment.revoked, 1) == {UNAUTHENTICATED: 1}
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
    assert deployment.codes(deployment.revoked, 3) == {UNAUTHENTICATED: 3}
    assert deployment.codes(deployment.good, LIMIT + 1) == {OK: LIMIT, EXHAUSTED: 1}
    wait_for(lambda: deployment.state().keys() == {"redis", "postgres"})
    wait_for(lambda: deployment.codes(deployment.good, 1)[UNAVAILABLE])
    deployment.postgres.start()
    deployment.redis.start()
    wait_for(lambda: deployment.codes(deployment.good, 1)[OK])
    assert deployment.codes(deployment.revoked, 1) == {UNAUTHENTICATED: 1}


@pytest.mark.parametrize("deployment", ["{redis: allow, postgres: deny}"], indirect=True)
def test_allow_counts_nothing_but_still_asks_who_is_revoked(deployment: Deployment) -> None:
    deployment.redis.kill()
    assert deployment.codes(deployment.good, 3 * LIMIT) == {OK: 3 * LIMIT}
    assert deployment.codes(deployment.revoked, 2) == {UNAUTHENTICATED: 2}
    deployment.postgres.kill()
    assert deployment.codes(deployment.good, 1) == {UNAVAILABLE: 1}
    deployment.postgres.start()
    wait_for(lambda: deployment.codes(deployment.good, 1)[OK])


@pytest.mark.parametrize("deployment", ["{redis: deny}"], indirect=True)
def test_a_reload_changes_the_failure_mode_during_an_outage(deployment: Deployment) -> None:
    deployment.redis.kill()
    assert deployment.codes(deployment.good, 2) == {UNAVAILABLE: 2}
    (deployment.server.directory / "policy.yaml").write_text(bearing(deployment.server.jwks, "{redis: allow}"))
    assert deployment.server.reload().status_code == httpx.codes.OK
    assert deployment.codes(deployment.good, 2) == {OK: 2}
