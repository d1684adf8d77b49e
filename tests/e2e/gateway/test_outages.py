"""The table of docs/adr/0006-failure-policy.md, with the real processes killed, stopped and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx
import psycopg
import pytest
import redis

from devstack.stack.child import Child
from devstack.stack.stack import Stack
from ext_authz.db import redis_keys
from ext_authz.errors import Unavailable
from tests.e2e.gateway.caller import Caller, session_of
from tests.services import wait_for


@pytest.fixture(autouse=True)
def everything_runs(stack: Stack, caller: Caller) -> Iterator[None]:
    """Leave the stack whole, whatever a test did to it."""
    yield
    for child in stack.children:
        if not child.is_running:
            child.stop()
            child.start()
    wait_for(caller.is_ready)
    wait_for(lambda: redis_is_complete(stack))


def ensure_outage(answer: httpx.Response) -> None:
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["code"] == "unavailable"


def test_redis_down_denies_every_call_and_redis_back_allows_them_again(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    assert caller.is_allowed(token)
    stack.child("redis").kill()
    ensure_outage(caller.ready(token))
    assert caller.ready().status_code == httpx.codes.UNAUTHORIZED, "a refusal needs no Redis"
    wait_for(lambda: not caller.dependency("redis"))
    assert caller.is_ready(), "every replica shares Redis: with all of them removed there would be no 503"
    stack.child("redis").start()
    wait_for(lambda: caller.is_allowed(token))


def test_a_redis_that_hangs_delays_no_answer(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    assert caller.is_allowed(token)
    assert stack.child("redis").pid
    os.kill(stack.child("redis").pid, signal.SIGSTOP)
    try:
        ensure_outage(caller.ready(token))
    finally:
        os.kill(stack.child("redis").pid, signal.SIGCONT)
    wait_for(lambda: caller.is_allowed(token))


def test_a_revocation_survives_a_flushed_and_a_killed_redis(stack: Stack, caller: Caller) -> None:
    revoked, good = caller.token(), caller.token()
    caller.operator.revoke_session(session_of(revoked))
    assert caller.ready(revoked).status_code == httpx.codes.UNAUTHORIZED
    with redis.Redis.from_url(stack.addresses.redis_url) as client:
        client.flushall()
    answers = {caller.ready(revoked).status_code for _ in range(50)}
    assert answers == {httpx.codes.UNAUTHORIZED}, "Postgres answers while Redis is filled again"
    assert caller.is_allowed(good)
    stack.child("redis").kill()
    stack.child("redis").start()
    wait_for(lambda: caller.is_allowed(good))
    assert caller.ready(revoked).status_code == httpx.codes.UNAUTHORIZED


def test_postgres_down_stops_no_check_and_loses_no_usage(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    stack.child("postgres").kill()
    answers = [caller.ready(token) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {httpx.codes.OK}
    with pytest.raises(Unavailable, match="postgres"):
        caller.operator.revoke_session(session_of(token))
    stack.child("postgres").start()
    wait_for(lambda: recorded(stack, answers) == len(answers))


def test_postgres_and_redis_data_lost_together_deny_every_call(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    assert caller.is_allowed(token)
    stack.child("postgres").kill()
    with redis.Redis.from_url(stack.addresses.redis_url) as client:
        client.flushall()
    ensure_outage(caller.ready(token))
    stack.child("postgres").start()
    wait_for(lambda: caller.is_allowed(token))


def test_the_identity_provider_down_stops_no_token_whose_key_is_known(stack: Stack, caller: Caller) -> None:
    first, second = caller.token(), caller.token()
    assert caller.is_allowed(first)
    stack.child("identity").kill()
    assert caller.is_allowed(first)
    assert caller.is_allowed(second), "never seen before, but its key is known"


def test_the_authorizer_killed_loses_no_answered_decision(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    answers = [caller.ready(token) for _ in range(50)]
    stack.child("authorizer").kill()
    during = caller.ready(token)
    assert during.status_code == httpx.codes.SERVICE_UNAVAILABLE
    stack.child("authorizer").start()
    wait_for(lambda: caller.is_allowed(token))
    wait_for(lambda: recorded(stack, answers) == len(answers))


def test_the_usage_worker_killed_loses_nothing_and_doubles_nothing(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    before = [caller.ready(token) for _ in range(20)]
    stack.child("usage-worker").kill()
    after = [caller.ready(token) for _ in range(20)]
    stack.child("usage-worker").start()
    wait_for(lambda: recorded(stack, before + after) == 40)


def test_started_without_redis_it_is_not_ready_and_recovers(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    stack.child("authorizer").stop()
    stack.child("redis").kill()
    start_without_waiting_for_ready(stack.child("authorizer"), caller)
    assert caller.ready(token).status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert not caller.is_ready(), "it has never been able to decide"
    assert not caller.dependency("redis")
    stack.child("redis").start()
    wait_for(lambda: caller.is_allowed(token))
    wait_for(caller.is_ready)


def test_started_without_postgres_it_believes_no_token_until_it_knows_their_owners(
    stack: Stack, caller: Caller
) -> None:
    """What an owner has lost is in Postgres alone (ADR 36); without `tokens:` in the policy it serves what Redis holds,
    as tests/e2e/failure/test_cold_start.py shows."""
    revoked, good = caller.token(), caller.token()
    caller.operator.revoke_session(session_of(revoked))
    stack.child("authorizer").stop()
    stack.child("postgres").kill()
    migrate, stack.child("authorizer").prepare = stack.child("authorizer").prepare, lambda: None
    try:
        start_without_waiting_for_ready(stack.child("authorizer"), caller)
    finally:
        stack.child("authorizer").prepare = migrate
    ensure_outage(caller.ready(good))
    assert not caller.is_ready(), "no balancer sends it anything"
    stack.child("postgres").start()
    wait_for(lambda: caller.is_allowed(good))
    assert caller.ready(revoked).status_code == httpx.codes.UNAUTHORIZED


def test_started_without_the_identity_provider_it_recovers(stack: Stack, caller: Caller) -> None:
    token = caller.token()
    stack.child("authorizer").stop()
    stack.child("identity").kill()
    start_without_waiting_for_ready(stack.child("authorizer"), caller)
    assert caller.ready(token).status_code == httpx.codes.SERVICE_UNAVAILABLE
    stack.child("identity").start()
    wait_for(lambda: caller.is_allowed(token))


def start_without_waiting_for_ready(authorizer: Child, caller: Caller) -> None:
    is_ready, authorizer.answers_at = authorizer.answers_at, lambda _: caller.is_live()
    try:
        authorizer.start()
    finally:
        authorizer.answers_at = is_ready


def redis_is_complete(stack: Stack) -> bool:
    """The mirror has filled this very Redis process; until then Postgres is read."""
    with redis.Redis.from_url(stack.addresses.redis_url) as client:
        return bool(client.get(redis_keys.complete()) == client.info("server")["run_id"].encode())


def recorded(stack: Stack, answers: list[httpx.Response]) -> int:
    """How many of these decisions stand in Postgres."""
    wanted = [answer.headers["x-decision-id"] for answer in answers]
    query = "SELECT count(*) FROM usage_events WHERE decision_id = ANY(%s::uuid[])"
    with psycopg.connect(stack.addresses.database_url) as connection:
        row = connection.execute(query, (wanted,)).fetchone()
    return int(row[0]) if row else 0
