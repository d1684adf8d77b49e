"""Started while Postgres is away, a worker serves what Redis holds, if the policy has no API tokens."""

from __future__ import annotations

from pathlib import Path

import psycopg
from redis import Redis

from ext_authz.db import redis_keys
from tests.e2e.reload.world import launched, serving, token
from tests.postgres import running_postgres
from tests.services import wait_for

REFUSED = 16


def test_started_without_postgres_it_serves_what_redis_holds(tmp_path: Path, redis_url: str) -> None:
    """With API tokens it waits for their owners: tests/e2e/gateway/test_outages.py."""
    revoked, good = token(jti="revoked"), token(jti="good")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with running_postgres() as postgres:
        with serving(tmp_path / "first", redis_url, postgres.url) as server:
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                connection.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'i0', 'revoked')")
            wait_for(lambda: server.check(revoked).status.code == REFUSED)
            with Redis.from_url(redis_url) as redis:
                wait_for(lambda: redis.exists(redis_keys.complete()))
        postgres.kill()
        with launched(tmp_path / "second", redis_url, postgres.url) as server:
            wait_for(server.ready, 30)
            assert server.check(good).status.code == 0
            assert server.check(revoked).status.code == REFUSED
