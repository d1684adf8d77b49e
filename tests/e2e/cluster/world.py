"""The whole service on a Redis Cluster, configured by the environment as an operator would: settings, not arguments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, LiteralString

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from ext_authz.app import background, build
from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.settings import Settings
from ext_authz.settlement.cluster import home_of
from ext_authz.settlement.model import SettleRequest
from tests import tokens
from tests.requests import check_request
from tests.services import RedisServer
from tests.waiting import until

POLICY = """
version: 1
issuers:
  - {{name: kc, issuer: "{issuer}", jwks_url: "{jwks_url}", audiences: [{audience}], roles_client: {audience}}}
limits:
  user: {{key: [user], rate: 100000/day}}
  path: {{key: [path], rate: 100000/day}}
  few: {{key: [user], rate: {few}/day}}
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, path: "/v2/models/{{model}}/infer", methods: [POST], limits: [user, path]}}
  - {{name: few, path: "/v2/models/{{model}}/generate", methods: [POST], limits: [few, path]}}
"""
FEW = 20


class World:
    """One authorizer with its mirror; `redis` is redis-py's own client, which shares nothing with ours."""

    def __init__(self, settings: Settings, nodes: list[RedisServer], redis: Any) -> None:  # noqa: ANN401 - redis-py's, with or without a cluster
        self.settings = settings
        self.shards = range(settings.redis_shards)
        self.nodes = nodes
        self.redis = redis
        self.app = build(settings)
        self._tokens: dict[str, str] = {}

    def user_of(self, shard: int, number: int = 0) -> str:
        """A subject whose home that shard is."""
        subjects = (f"user-{number}-{count}" for count in range(1000))
        return next(sub for sub in subjects if home_of(_ask(sub), len(self.shards)) == shard)

    async def check(self, subject: str, path: str = "infer") -> CheckResponse:
        """One call to the model by this user, with a token that is older than any revocation of a test."""
        token = self._tokens.setdefault(subject, tokens.mint({"sub": subject}, now=time.time() - 10))
        request = check_request(path=f"/v2/models/sentiment/{path}", token=token)
        return CheckResponse.FromString(await self.app.check(request))

    async def refused(self, subject: str) -> bool:
        response = await self.check(subject)
        assert response.status.code in (0, 16), response  # no 503
        return bool(response.status.code == 16)

    async def held(self, entry_id: str, shard: int) -> bool:
        return bool(await self.redis.exists(redis_keys.revocation(entry_id, shard)))

    async def complete(self, shard: int) -> bool:
        """Whether the marker names the process that holds the shard; not while that one is starting."""
        key = redis_keys.complete(shard)
        try:
            at_holder = isinstance(self.redis, RedisCluster)
            of = {"target_nodes": self.redis.get_node_from_key(key)} if at_holder else {}
            info: Any = await self.redis.info("server", **of)
            return bool(await self.redis.get(key) == info["run_id"].encode())
        except RedisError:
            return False

    async def all_complete(self) -> bool:
        return all([await self.complete(shard) for shard in self.shards])

    async def node_of(self, shard: int) -> RedisServer:
        holder: Any = self.redis.get_node_from_key(redis_keys.complete(shard))
        return next(node for node in self.nodes if node.port == holder.port)

    async def sql(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        url = self.settings.database_url.get_secret_value()
        async with await connect(url) as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []

    @contextmanager
    def command(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A `tollgate` command as a process of its own, killed at the end of the block."""
        environ = {
            "TOLLGATE_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "TOLLGATE_REDIS_URL": self.settings.redis_url.get_secret_value(),
            "TOLLGATE_REDIS_SHARDS": str(len(self.shards)),
            "TOLLGATE_USAGE_BATCH": "5",
            "TOLLGATE_POLICY": str(self.settings.policy),
        }
        command = [sys.executable, "-m", "ext_authz", *words]
        with subprocess.Popen(command, env=os.environ | environ, stdout=subprocess.PIPE) as started:
            try:
                yield started
            finally:
                started.kill()

    async def tollgate(self, *words: str) -> int:
        """The exit status of a command that ends by itself."""
        return (await self.command_output(*words))[0]

    async def command_output(self, *words: str) -> tuple[int, str]:
        """The same with what it says."""
        with self.command(*words) as process:
            output, _ = await asyncio.to_thread(process.communicate, timeout=30)
            return process.returncode, output.decode()


def _ask(subject: str) -> SettleRequest:
    return SettleRequest(("", "", f"u:kc:{subject}", "", ""), 0, (), b"")


@asynccontextmanager
async def world_of(
    nodes: list[RedisServer],
    database_url: str,
    jwks_url: str,
    directory: Path,
    *,
    shards: int,
    patience: float = 5,
    url: str = "",
    redis: Any = None,  # noqa: ANN401 - a client, or what is like one
) -> AsyncIterator[World]:
    """The URL names the first node, which holds the keys of some of the shards. One node is no cluster."""
    await migrate(database_url)
    policy = directory / "policy.yaml"
    policy.write_text(POLICY.format(issuer=tokens.ISSUER, audience=tokens.AUDIENCE, jwks_url=jwks_url, few=FEW))
    given = {"database_url": database_url, "redis_url": url or nodes[0].url, "redis_shards": shards, "policy": policy}
    settings = Settings(**given, redis_timeout=patience, postgres_timeout=5, revocation_poll=0.1)  # type: ignore[arg-type]
    kind: Any = RedisCluster if len(nodes) > 1 else Redis
    async with redis or kind.from_url(nodes[0].url) as client, _running(World(settings, nodes, client)) as world:
        await until(world.all_complete)
        yield world


@asynccontextmanager
async def _running(world: World) -> AsyncIterator[World]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for work in background(world.settings).values():
            tasks.create_task(_until_stopped(work(stop)))
        await world.app.start()
        try:
            yield world
        finally:
            await world.app.stop()
            stop.set()


async def _until_stopped(work: Awaitable[None]) -> None:
    await work
