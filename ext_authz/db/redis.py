"""Clients of Redis: in a cluster, of the node that holds the shard; no hidden retries, every wait has a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from hiredis import Reader
from redis._parsers import BaseParser
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import TimeoutError as ConnectionTimedOut

from ext_authz.db import redis_keys
from ext_authz.db.sentinel import ToPrimary, ToPrimaryOverTls, sentinels_at
from ext_authz.db.store_urls import is_sentinel, node_url

CLIENT_NAME = "tollgate"
MAX_REDIRECTIONS = 5
MAX_NODES = 16

Address = tuple[str, int]


class Nodes:
    """The addresses to connect to: the URL's, and the nodes that a cluster listed. So the URL's node may be down."""

    def __init__(self, first: Address) -> None:
        self._addresses = [first]

    def __iter__(self) -> Iterator[Address]:
        return iter(tuple(self._addresses))

    def learn(self, slots: Any, asked: str) -> None:  # noqa: ANN401 - the answer to CLUSTER SLOTS
        """`asked`: the host that answered; a node that does not know its own address means this one."""
        for _, _, *nodes in slots:
            for host, port, *_ in nodes:
                name = host.decode() if host else asked
                if (name, port) not in self._addresses and len(self._addresses) < MAX_NODES:
                    self._addresses.append((name, port))

    def put_last(self, address: Address) -> None:
        """It did not answer: begin elsewhere the next time."""
        self._addresses.remove(address)
        self._addresses.append(address)


class _ToHolder(Connection):
    """Connects to the node that holds a key, whichever node of a cluster the URL names.

    So whatever is asked over it, INFO too, is answered by the process that holds the shard: its `run_id` is the one
    that the completeness marker is compared with.
    """

    def __init__(self, *, held: str, nodes: Nodes, **options: Any) -> None:  # noqa: ANN401 - redis-py's
        super().__init__(**options)
        self._held = held
        self._nodes = nodes

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Called for every connection. Begins with the known nodes each time: the holder may have failed over."""
        if self.is_connected:
            return
        failure: Exception = ConnectionFailed("no node")
        for address in self._nodes:
            try:
                await self._find(address, check_health=check_health, retry_socket_connect=retry_socket_connect)
            except (ConnectionFailed, ConnectionTimedOut) as failed:
                self._nodes.put_last(address)
                failure = failed
            except BaseException:  # a caller whose time is over
                self._nodes.put_last(address)
                raise
            else:
                return
        raise failure

    async def _find(self, address: Address, **how: bool) -> None:
        self.host, self.port = address
        for _ in range(MAX_REDIRECTIONS):
            try:
                await super().connect_check_health(**how)
            except MovedError as moved:
                self.host, self.port = moved.host or self.host, moved.port
            else:
                return
        raise RedisError(f"the cluster still redirects after {MAX_REDIRECTIONS} nodes")

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        await super().on_connect_check_health(check_health)
        # A node that does not hold the key answers with the one that does (MovedError). A single Redis holds all keys.
        asked = self.pack_commands((("CLIENT", "SETNAME", CLIENT_NAME), ("CLUSTER", "SLOTS"), ("GET", self._held)))
        await self.send_packed_command(asked, check_health=False)
        _, slots, holds = await self._reply(), await self._reply(), await self._reply()
        if isinstance(slots, list):
            self._nodes.learn(slots, self.host)
        # ASK: the slot is being migrated away from this node, which serves it until then.
        if isinstance(holds, MovedError) or (isinstance(holds, Exception) and not isinstance(holds, AskError)):
            raise holds

    async def _reply(self) -> Any:  # noqa: ANN401 - the answer, or the error that it was
        try:
            return await self.read_response()
        except ResponseError as refused:  # the ACL, or no cluster
            return refused


class _ToHolderOverTls(_ToHolder, SSLConnection):
    pass


_Kinds = dict[type[AbstractConnection], type[AbstractConnection]]
_TO_HOLDER: _Kinds = {Connection: _ToHolder, SSLConnection: _ToHolderOverTls}
_TO_PRIMARY: _Kinds = {Connection: ToPrimary, SSLConnection: ToPrimaryOverTls}


def connection_to(
    url: str,
    shard: int,
    nodes: Nodes | None = None,
    **more: Any,  # noqa: ANN401 - redis-py's
) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """Class and options of connections that end at the Redis that holds the shard. `nodes` remembers a cluster's."""
    kind, options = connection_at(url, **more)
    if is_sentinel(url):
        marker = redis_keys.complete(shard)
        return _TO_PRIMARY[kind], {**options, "sentinels": sentinels_at(url, options), "marker": marker}
    if kind not in _TO_HOLDER:  # a Unix socket: one Redis, no cluster
        return kind, options
    return _TO_HOLDER[kind], {
        **options,
        "held": redis_keys.complete(shard),
        "nodes": nodes or first_nodes(url),
    }


def connection_at(url: str, **more: Any) -> tuple[type[AbstractConnection], dict[str, Any]]:  # noqa: ANN401 - redis-py's
    """As `connection_to`, for one address: the URL's, or `host` and `port`."""
    # Without CLIENT SETINFO at the start: the ACL may not allow it.
    options: dict[str, Any] = {**parse_url(node_url(url)), "protocol": 2, "driver_info": None, **more}
    return options.pop("connection_class", Connection), options


def first_nodes(url: str) -> Nodes:
    """The nodes that are known before the first connection."""
    options: Any = parse_url(node_url(url))
    return Nodes((options.get("host", "localhost"), options.get("port", 6379)))


def is_migrating(failure: RedisError) -> bool:
    """Whether a node refused since the slot is on its way to another one, and not all of it is here or there."""
    if isinstance(failure, AskError | TryAgainError):
        return not isinstance(failure, MovedError)
    return "non local key" in str(failure)  # in a script


async def ask_target(client: Redis, ask: AskError, *command: str) -> Any:  # noqa: ANN401 - whatever it answers
    """Give a command to the node that a migrating slot goes to, as ASK demands.

    Raises:
        RedisError: there was no answer.
    """
    options = dict(client.connection_pool.connection_kwargs)
    del options["held"], options["nodes"]
    kind = SSLConnection if issubclass(client.connection_pool.connection_class, SSLConnection) else Connection
    connection = kind(**{**options, "host": ask.host or options["host"], "port": ask.port})
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        for each in (("ASKING",), command):
            await connection.send_command(*each, check_health=False)
        await connection.read_response()
        return await connection.read_response()
    finally:
        await connection.disconnect()


async def replies_to(client: Redis, packed: bytes, count: int) -> list[Any]:
    """The replies to very many commands, packed one behind the other: 0.1 us each, where redis-py takes 10.

    Raises:
        RedisError: the first that was answered, or there was no answer in time; others may have been carried out.
    """
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(connection.socket_timeout):
            await connection.send_packed_command(packed, check_health=False)
            return await _read(connection._reader, count)  # noqa: SLF001 - it has no other way out
    except BaseException as failure:
        await connection.disconnect(nowait=True)  # replies may still be on their way
        if isinstance(failure, OSError):
            raise ConnectionFailed(str(failure) or "no answer in time") from failure
        raise
    finally:
        await client.connection_pool.release(connection)


async def _read(stream: asyncio.StreamReader, count: int) -> list[Any]:
    reader = Reader(replyError=BaseParser.parse_error)
    replies: list[Any] = []
    while len(replies) < count:
        if (reply := reader.gets()) is not False:
            replies.append(reply)
        elif data := await stream.read(65536):
            reader.feed(data)
        else:
            raise ConnectionFailed("Redis closed the connection")
    if failure := next((reply for reply in replies if isinstance(reply, Exception)), None):
        raise failure
    return replies


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
