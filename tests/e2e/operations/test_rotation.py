"""New passwords of the stores and new signing keys, one authorizer after the other: no call fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from ext_authz.db.migrate import migrate
from tests import redis_acl, tokens
from tests.e2e.reload.world import Caller, Serving, launched, policy, token
from tests.postgres import PostgresServer, running_postgres
from tests.postgres_roles import as_role
from tests.services import running_redis, wait_for

pytestmark = pytest.mark.alone

OK, REFUSED = 0, 16
ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'i0', %s)"


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """With tables, and a password for everybody but its administrator."""
    with running_postgres() as server:
        asyncio.run(migrate(server.url))
        (server.directory / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        with psycopg.connect(server.url) as admin:
            admin.execute("SELECT pg_reload_conf()")
        yield server


@contextmanager
def authorizer(directory: Path, redis_url: str, database_url: str) -> Iterator[Serving]:
    directory.mkdir()
    with launched(
        directory, redis_url, database_url, prepare=partial(_write, directory), revocation_poll=0.2
    ) as server:
        wait_for(server.ready, 60)
        yield server


def _write(directory: Path, jwks: str) -> None:
    text = policy(jwks).replace("leeway: 30s", "leeway: 30s, jwks_refresh: 10s, jwks_cooldown: 1s")
    (directory / "policy.yaml").write_text(text)


def refused(server: Serving, user: str) -> bool:
    return bool(server.check(token(sub=user, iat=int(time.time()) - 300)).status.code == REFUSED)


def test_the_password_of_redis(postgres: PostgresServer, tmp_path: Path) -> None:
    """A user may have two passwords meanwhile."""
    with running_redis(tmp_path) as redis, Redis.from_url(redis.url) as admin:
        before = redis_acl.allow(redis)
        after = before.replace(redis_acl.PASSWORD, "new")
        with authorizer(tmp_path / "before", before, postgres.url) as old, Caller(old, token()) as caller:
            admin.execute_command("ACL", "SETUSER", redis_acl.USER, ">new")
            with authorizer(tmp_path / "after", after, postgres.url) as new, Caller(new, token()) as other:
                wait_for(lambda: other.codes[OK] > 50)
                admin.execute_command("ACL", "SETUSER", redis_acl.USER, f"<{redis_acl.PASSWORD}")
                seen = caller.codes[OK]
                wait_for(lambda: caller.codes[OK] > seen + 50)
            assert (set(caller.codes), set(other.codes)) == ({OK}, {OK})
        with Redis.from_url(before) as client, pytest.raises(AuthenticationError):
            client.get("{tg0}:complete")


def test_the_password_of_postgres(postgres: PostgresServer, tmp_path: Path) -> None:
    """By a second role with the rights of the first: a role has one password, and connections come and go."""
    with running_redis(tmp_path) as redis, psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("CREATE ROLE tollgate_a LOGIN PASSWORD 'old'")
        admin.execute("GRANT SELECT, DELETE ON revocations TO tollgate_a")
        urls = [
            as_role(postgres.url, name).replace("@", f":{password}@")
            for name, password in (("tollgate_a", "old"), ("tollgate_b", "new"))
        ]
        with authorizer(tmp_path / "before", redis.url, urls[0]) as old, Caller(old, token()) as caller:
            admin.execute("CREATE ROLE tollgate_b LOGIN PASSWORD 'new' IN ROLE tollgate_a")
            with authorizer(tmp_path / "after", redis.url, urls[1]) as new, Caller(new, token()) as other:
                admin.execute("ALTER ROLE tollgate_a NOLOGIN")
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tollgate_a'")
                assert not refused(new, "later")
                admin.execute(ROW, ("later",))
                wait_for(lambda: refused(new, "later"))
                wait_for(lambda: refused(old, "later"))  # Redis has it
                seen = caller.codes[OK] + other.codes[OK]
                wait_for(lambda: caller.codes[OK] + other.codes[OK] > seen + 100)
            assert (set(caller.codes), set(other.codes)) == ({OK}, {OK})
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            psycopg.connect(urls[0])


def test_the_signing_keys_of_an_issuer(postgres: PostgresServer, tmp_path: Path) -> None:
    """The new key is published before it signs; the old one stays until its last token has expired."""
    with running_redis(tmp_path) as redis, authorizer(tmp_path / "one", redis.url, postgres.url) as server:
        published = tmp_path / "one/keys/jwks.json"
        with Caller(server, token()) as caller:
            published.write_bytes(tokens.jwks(tokens.RSA, tokens.RSA_NEXT))
            signed = tokens.mint({"sub": "new"}, key=tokens.RSA_NEXT)
            wait_for(lambda: server.check(signed).status.code == OK)
            assert set(caller.codes) == {OK}
        published.write_bytes(tokens.jwks(tokens.RSA_NEXT))
        wait_for(lambda: server.check(token()).status.code == REFUSED, 60)
        assert server.check(signed).status.code == OK
