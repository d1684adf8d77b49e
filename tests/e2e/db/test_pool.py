"""The pool of connections after an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from psycopg_pool.base import AttemptWithBackoff

from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import Unavailable
from tests.postgres import PostgresServer, running_postgres


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A Postgres to kill."""
    with running_postgres() as server:
        yield server


async def test_a_long_outage_costs_nothing_once_it_is_over(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's own back-off doubles with every try: after some minutes of outage the next one was minutes away."""
    monkeypatch.setattr(AttemptWithBackoff, "INITIAL_DELAY", 600.0)
    pool = Pool(postgres.url, timeout=1.0)

    async def ask(connection: Connection) -> object:
        return await (await connection.execute("SELECT 1")).fetchall()

    await pool.open()
    try:
        assert await pool.run(ask) == [(1,)]
        postgres.kill()
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"Connection refused|No such file"):
                await pool.run(ask)
        postgres.start()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await pool.run(ask) == [(1,)]
                except Unavailable:
                    continue
                break
    finally:
        await pool.close()
