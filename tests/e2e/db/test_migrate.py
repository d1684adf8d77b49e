"""`tollgate migrate` by any role, over any database: one sentence, never a stack trace."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from ext_authz.db import tables
from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.db.postgres import connect
from ext_authz.errors import ConfigError
from tests.pgbouncer import needs_pgbouncer, pgbouncer
from tests.postgres_roles import as_role, name_in, role
from tests.waiting import until

ALL = [migration.name for migration in read_migrations()]


def tollgate_migrate(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ext_authz", "migrate"], env=_environ(url), check=False, capture_output=True, text=True
    )


def _started(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ext_authz", "migrate"], env=_environ(url))


def _environ(url: str) -> dict[str, str]:
    return {**os.environ, "TOLLGATE_DATABASE_URL": url, "TOLLGATE_REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.fixture
def migrated(database_url: str) -> str:
    asyncio.run(migrate(database_url))
    return database_url


@pytest.fixture
def nobody(database_url: str) -> Iterator[str]:
    """A role without any right."""
    with role(database_url) as url:
        yield url


def test_a_role_without_create_gets_the_missing_grant_printed(database_url: str, nobody: str) -> None:
    name = name_in(nobody)
    done = tollgate_migrate(nobody)
    grant = f"GRANT CREATE ON SCHEMA public TO {name}"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tollgate: the role {name} may not make tables in the schema public: {grant}\n"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(grant.encode())
    done = tollgate_migrate(nobody)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ALL, "")


def test_where_nothing_is_to_do_no_right_is_needed_but_to_read(migrated: str) -> None:
    with role(migrated, "GRANT SELECT ON schema_migrations TO {role}") as url:
        done = tollgate_migrate(url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the tables are up to date\n", "")


async def test_a_role_that_may_not_read_gets_the_missing_grant_printed(database_url: str) -> None:
    await migrate(database_url)
    with role(database_url) as url, pytest.raises(ConfigError, match="GRANT SELECT ON schema_migrations TO r"):
        await migrate(url)


async def test_a_role_that_does_not_own_the_tables_gets_the_owner_printed(database_url: str) -> None:
    await migrate(database_url, read_migrations()[:2])
    grants = ("GRANT CREATE ON SCHEMA public TO {role}", "GRANT SELECT, INSERT ON schema_migrations TO {role}")
    with (
        role(database_url, *grants) as url,
        pytest.raises(ConfigError, match="may not change the tables of postgres: run tollgate migrate as postgres"),
    ):
        await migrate(url)


async def test_a_search_path_without_a_schema_is_a_sentence(database_url: str) -> None:
    with pytest.raises(ConfigError, match="the role postgres may use no schema of its search_path"):
        await migrate(as_role(database_url, "postgres", search_path="nowhere"))


def test_a_read_only_database_is_a_sentence(database_url: str) -> None:
    done = tollgate_migrate(as_role(database_url, "postgres", default_transaction_read_only="on"))
    assert done.returncode == 1
    assert done.stderr == (
        "tollgate: postgres cannot be used: it is read-only: a standby, or default_transaction_read_only is on\n"
    )


async def test_a_server_that_is_too_old_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "OLDEST_SERVER", 99)
    with pytest.raises(ConfigError, match=r"cannot be used: it is Postgres \d\d, and 99 or newer is needed$"):
        await migrate(database_url)


def test_a_database_in_another_encoding_is_refused(postgres_server: str) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        done = tollgate_migrate(postgres_server.replace("/postgres?", "/latin?"))
        admin.execute("DROP DATABASE latin")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "tollgate: postgres cannot be used: the database latin is encoded in LATIN1, which cannot hold"
    )


def test_a_database_of_a_newer_version_is_logged_and_no_error(migrated: str) -> None:
    """So the init container of a rollout that is taken back still ends well."""
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("INSERT INTO schema_migrations (name, checksum) VALUES ('9999_later', '')")
    done = tollgate_migrate(migrated)
    assert (done.returncode, done.stdout) == (0, "the tables are up to date\n")
    assert done.stderr == "this database was migrated by a newer Tollgate, up to 9999_later: nothing to do\n"


@needs_pgbouncer
async def test_several_at_once_through_a_pooler_do_it_once(database_url: str) -> None:
    with pgbouncer(database_url) as pooled:
        names = await asyncio.gather(*(migrate(pooled) for _ in range(5)))
    assert sorted(names, key=len) == [[], [], [], [], ALL]


async def test_one_that_is_killed_in_the_middle_leaves_nothing_half_done(database_url: str) -> None:
    """It waits for a lock on a table that it has to change, with one migration behind it."""
    await migrate(database_url, read_migrations()[:2])
    async with await connect(database_url) as other, other.transaction():
        await other.execute("LOCK TABLE usage_events IN ACCESS SHARE MODE")
        process = _started(database_url)

        async def waits() -> bool:
            cursor = await other.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
            return bool(await cursor.fetchall())

        await until(waits)
        process.kill()
        process.wait()
    assert await migrate(database_url) == ALL[2:]
