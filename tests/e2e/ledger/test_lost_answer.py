"""Redis settles a check and its answer never arrives: the caller got 503, so that is what the bill says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ext_authz.app import build
from ext_authz.db import redis_keys
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.settings import Settings
from tests import tokens
from tests.e2e.cluster.conftest import jwks_url
from tests.e2e.cluster.world import FEW, POLICY
from tests.e2e.ledger.world import STREAM, World
from tests.requests import check_request
from tests.waiting import running, until

__all__ = ["jwks_url"]


class Way:
    """The network between the authorizer and Redis; `lossy`, it loses what Redis answers."""

    def __init__(self, redis_url: str) -> None:
        self.lossy = False
        self.ended = asyncio.Semaphore(0)
        self.begun = 0
        self._redis = urlsplit(redis_url)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.begun += 1
        redis_reader, redis_writer = await asyncio.open_connection(self._redis.hostname, self._redis.port)
        with suppress(OSError):
            await asyncio.gather(self._pass(reader, redis_writer), self._pass(redis_reader, writer, answers=True))
        self.ended.release()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        try:
            while part := await reader.read(65_536):
                if not (answers and self.lossy):
                    writer.write(part)
        finally:
            writer.close()


@asynccontextmanager
async def way_to(redis_url: str) -> AsyncIterator[tuple[Way, str]]:
    way = Way(redis_url)
    async with await asyncio.start_server(way.carry, "127.0.0.1", 0) as server:
        yield way, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        for _ in range(way.begun):
            await way.ended.acquire()


async def test_a_check_whose_answer_was_lost_is_one_row_and_not_allowed(
    world: World, jwks_url: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.format(issuer=tokens.ISSUER, audience=tokens.AUDIENCE, jwks_url=jwks_url, few=FEW))
    await world.redis.set(redis_keys.complete(), (await world.redis.info("server"))["run_id"])
    async with way_to(world.redis_url) as (way, url):
        given: dict[str, Any] = {"database_url": world.database_url, "redis_url": url, "policy": policy}
        app = build(Settings(**given))
        await app.start()
        good = check_request(token=tokens.mint())
        assert CheckResponse.FromString(await app.check(good)).status.code == 0
        way.lossy = True
        lost = CheckResponse.FromString(await app.check(good))
        assert lost.status.code == 14, lost
        assert await world.redis.xlen(STREAM) == 2  # as if it had been let through
        way.lossy = False

        async def answered() -> bool:
            return await world.redis.xlen(STREAM) == 3

        await until(answered)
        await app.stop()
    async with running(world.worker()):
        await until(world.drained)
    assert await world.sql("SELECT reason, count(*) FROM usage_events GROUP BY 1 ORDER BY 1") == [
        ("allowed", 1),
        ("unavailable", 1),
    ]
    assert await world.rejected() == []
