"""The way to Redis: in a cluster to the node that holds the shard; no hidden retries, no wait without an end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisError

from ext_authz import redis_keys

CLIENT_NAME = "tollgate"
MAX_REDIRECTIONS = 5


class _ToHolder(Connection):
    """Ends at the node that holds a key, wherever in a cluster the URL leads to first.

    So whatever is asked over it, INFO too, is answered by the process that holds the shard: its `run_id` is the one
    that the completeness marker is compared with.
    """

    def __init__(self, *, held: str, **options: Any) -> None:  # noqa: ANN401 - redis-py's
        super().__init__(**options)
        self._held = held
        self._first = self.host, self.port

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Every way to connect leads through here. Begins at the URL each time: the holder may have died."""
        if self.is_connected:
            return
        self.host, self.port = self._first
        for _ in range(MAX_REDIRECTIONS):
            try:
                await super().connect_check_health(check_health, retry_socket_connect)
            except MovedError as moved:
                self.host, self.port = moved.host or self.host, moved.port
            else:
                return
        raise RedisError(f"the cluster still redirects after {MAX_REDIRECTIONS} nodes")

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        await super().on_connect_check_health(check_health)
        # A node that does not hold the key says now who does (MovedError). A single Redis holds all of them.
        await self.send_command("EXISTS", self._held, check_health=False)
        await self.read_response()


class _ToHolderOverTls(_ToHolder, SSLConnection):
    pass


_TO_HOLDER: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _ToHolder,
    SSLConnection: _ToHolderOverTls,
}


def connection_to(url: str, shard: int, **more: Any) -> tuple[type[AbstractConnection], dict[str, Any]]:  # noqa: ANN401 - redis-py's
    """Class and options of connections that end at the Redis that holds the shard."""
    options: dict[str, Any] = {**parse_url(url), "client_name": CLIENT_NAME, **more}
    kind: type[AbstractConnection] = options.pop("connection_class", Connection)
    if kind not in _TO_HOLDER:  # a Unix socket: one Redis, no cluster
        return kind, options
    return _TO_HOLDER[kind], {**options, "held": redis_keys.complete(shard)}


def connect(url: str, *, timeout: float, shard: int = 0) -> Redis:
    """A client of the Redis that holds the shard; it connects when it is used.

    Its commands fail after `timeout` seconds. Nothing is sent twice behind the caller's back but what a node refused
    because the shard has moved away from it.
    """
    moved = Retry(NoBackoff(), 1, (MovedError,))
    kind, options = connection_to(url, shard, socket_timeout=timeout, socket_connect_timeout=timeout, retry=moved)
    return Redis.from_pool(ConnectionPool(kind, **options))


@asynccontextmanager
async def connected(url: str, *, shards: int, seconds: float) -> AsyncGenerator[list[Redis]]:
    """A client of every shard, in their order, as `connect` makes them."""
    async with AsyncExitStack() as stack:
        clients = [connect(url, timeout=seconds, shard=shard) for shard in range(shards)]
        yield [await stack.enter_async_context(client) for client in clients]
