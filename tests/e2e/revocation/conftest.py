from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ext_authz.db.migrate import migrate
from ext_authz.revocation.commands import revocations, revoke
from tests.e2e.revocation.operator import POLICY, Ledger, Tollgate
from tests.e2e.revocation.world import World, world_of


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    """The servers of the run; nothing is killed here."""
    async with world_of(database_url, redis_url) as world:
        yield world


@pytest.fixture
def environ(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str | None]:
    """A policy is at hand."""
    asyncio.run(migrate(database_url))
    (tmp_path / "policy.yaml").write_text(POLICY)
    with Redis.from_url(redis_url) as redis:
        redis.set("{tg0}:complete", redis.info("server")["run_id"])
    return {
        "TOLLGATE_DATABASE_URL": database_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_POLICY": str(tmp_path / "policy.yaml"),
    }


@pytest.fixture
def tollgate(environ: dict[str, str | None]) -> Tollgate:
    def run(*words: str, stdin: str = "") -> Result:
        command = {"revoke": revoke, "revocations": revocations}[words[0]]
        return CliRunner().invoke(command, words[1:], env=environ, input=stdin)

    return run


@pytest.fixture
def ledger(environ: dict[str, str | None], database_url: str) -> Ledger:
    return Ledger(database_url)
