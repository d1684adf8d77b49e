"""A Postgres in which no statement fails and answers are wrong, or that refuses TLS: no check and no mirror uses it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from ext_authz.db import tables
from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.errors import Unavailable
from ext_authz.revocation.store import RevocationStore
from tests.e2e.ledger.world import event as usage_event
from tests.e2e.ledger.world import world_of
from tests.e2e.revocation.world import entry
from tests.e2e.revocation.world import world_of as revocations_of
from tests.e2e.server.certificates import Authority
from tests.postgres import running_postgres, running_standby
from tests.postgres_roles import role
from tests.waiting import running, until


async def why(url: str) -> str:
    """Why a check could not ask this database."""
    store = RevocationStore(SecretStr(url), 5)
    await store.start()
    try:
        await store.ensure_usable()
    except Unavailable as failure:
        return failure.detail
    finally:
        await store.stop()
    return ""


async def test_a_database_that_fails_nothing_and_answers_wrongly_is_not_up(database_url: str) -> None:
    await migrate(database_url)
    assert await why(database_url) == ""
    with role(database_url, "GRANT SELECT ON revocations TO {role}") as url:
        assert await why(url) == ""
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute("ALTER TABLE revocations ENABLE ROW LEVEL SECURITY")
        assert (await why(url)).startswith("row level security hides rows of revocations from this role")


@pytest.mark.parametrize(
    ("answer", "options", "sentence"),
    [
        (b"N", "sslmode=require", "it does not support TLS"),
        (b"S", "sslmode=verify-full&sslrootcert={here}/no.pem", "its certificate cannot be verified without"),
        (
            b"S",
            "sslmode=verify-full&sslrootcert={here}/unknown_ca.pem",
            "its certificate is signed by an unknown authority",
        ),
        (b"S", "sslmode=verify-full&sslrootcert={here}/authority.pem", "its certificate is for another host"),
    ],
)
async def test_a_disagreement_about_tls_is_a_wrong_setting_and_no_outage(
    tmp_path: Path, answer: bytes, options: str, sentence: str
) -> None:
    """As Postgres answers to SSLRequest, and no further."""
    certificate, _ = (Authority(tmp_path, "authority").issue("postgres"), Authority(tmp_path, "unknown_ca"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(answer)
        with suppress(OSError):
            if answer == b"S":
                await writer.start_tls(context)
            await reader.read(100)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    store = RevocationStore(
        SecretStr(f"postgresql://u@localhost:{server.sockets[0].getsockname()[1]}/d?{options.format(here=tmp_path)}"), 1
    )
    await store.start()
    try:
        with pytest.raises(Unavailable) as failure:
            await store.ensure_usable()
    finally:
        await store.stop()
        server.close()
    assert failure.value.detail.startswith(sentence)
    assert failure.value.answers


async def test_a_database_without_an_encoding_takes_every_name(postgres_server: str) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        url = postgres_server.replace("/postgres?", "/bytes?")
        await migrate(url)
        store = RevocationStore(SecretStr(url), 5)
        await store.start()
        try:
            await store.ensure_usable()
            await store.revoke(entry("日本"))
            assert [recorded.value for recorded in await store.entries()] == ["日本"]
        finally:
            await store.stop()
            admin.execute("DROP DATABASE bytes WITH (FORCE)")


async def test_a_database_in_an_encoding_that_cannot_hold_every_name_is_not_up(postgres_server: str) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        url = postgres_server.replace("/postgres?", "/latin?")
        try:
            with psycopg.connect(url, autocommit=True) as before:
                for migration in read_migrations():
                    before.execute(migration.text.encode())
            assert (await why(url)).startswith("the database latin is encoded in LATIN1")
        finally:
            admin.execute("DROP DATABASE latin WITH (FORCE)")


async def test_a_server_that_is_too_old_is_not_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(database_url)
    monkeypatch.setattr(tables, "OLDEST_SERVER", 99)
    assert re.fullmatch(r"it is Postgres \d\d, and 99 or newer is needed", await why(database_url))


@pytest.fixture(scope="module")
def standby() -> Iterator[str]:
    """A hot standby of a database with tables."""
    with running_postgres() as primary:
        asyncio.run(migrate(primary.url))
        with running_standby(primary) as url:
            yield url


async def test_a_hot_standby_is_not_up(standby: str, redis_url: str) -> None:
    assert (await why(standby)).startswith("it is a standby, which may lag behind")
    async with world_of(standby, redis_url) as world, running(worker := world.worker()):
        await world.record(usage_event())

        async def noticed() -> bool:
            return "read-only" in worker.causes().get("postgres", "")

        await until(noticed)


async def test_redis_is_not_filled_from_a_standby(
    standby: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It may lag behind, and a token that was revoked a moment ago would be good."""
    async with revocations_of(standby, redis_url) as world, running(world.mirror()):
        await until(lambda: _logged(caplog, "it is a standby"))
        assert not await world.complete()


async def test_redis_is_not_filled_from_a_table_that_hides_rows(
    database_url: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate(database_url)
    with role(database_url, "GRANT SELECT ON revocations, schema_migrations TO {role}") as url:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute("ALTER TABLE revocations ENABLE ROW LEVEL SECURITY")
        async with revocations_of(url, redis_url) as world, running(world.mirror()):
            await until(lambda: _logged(caplog, "row level security hides rows"))
            assert not await world.complete()


async def _logged(caplog: pytest.LogCaptureFixture, cause: str) -> bool:
    return any(getattr(record, "error", "").startswith(cause) for record in caplog.records)
