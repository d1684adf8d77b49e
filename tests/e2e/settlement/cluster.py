"""A Redis Cluster from the same redis-server: its nodes, and the moves of its slots as redis-cli makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tests.services import REDIS, RedisServer, wait_for

SLOTS = 16_384

NODE_TIMEOUT_MS = 2000
"""Silence after which a node counts as dead; a replica takes over about twice as much later."""
PATIENT_MS = 60_000
"""The same where no replica takes over: else a node of a busy machine takes the others for dead, and serves no more."""


@contextmanager
def running_cluster(
    directory: Path, masters: int = 3, *, replicas: int = 0, program: str = REDIS
) -> Iterator[list[RedisServer]]:
    """The first node holds the first slots, and so on; after the masters come the replicas, of the first one first."""
    with ExitStack() as stack:
        count = masters + replicas
        patience = NODE_TIMEOUT_MS if replicas else PATIENT_MS
        nodes = [stack.enter_context(_running_node(directory / str(at), program, patience)) for at in range(count)]
        clients = [stack.enter_context(Redis.from_url(node.url)) for node in nodes]
        for number, client in enumerate(clients):
            if number < masters:
                first, end = SLOTS * number // masters, SLOTS * (number + 1) // masters
                client.execute_command("CLUSTER ADDSLOTS", *range(first, end))
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        wait_for(lambda: all(_agrees(client, count) for client in clients))
        for number, client in enumerate(clients[masters:]):
            client.execute_command("CLUSTER REPLICATE", node_id(nodes[number]))
        for client in clients[masters:]:
            wait_for(lambda c=client: c.info("replication").get("master_link_status") == "up")
        yield nodes


@contextmanager
def _running_node(directory: Path, program: str, patience: int) -> Iterator[RedisServer]:
    directory.mkdir()
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(patience))
    node = RedisServer(directory, *options, program=program)
    node.start()
    try:
        yield node
    finally:
        node.kill()


def _agrees(client: Redis, count: int) -> bool:
    info: Any = client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == count)


def node_id(node: RedisServer) -> str:
    with Redis.from_url(node.url) as client:
        identity: bytes = client.execute_command("CLUSTER MYID")
        return identity.decode()


def primaries(nodes: list[RedisServer]) -> list[RedisServer]:
    return [node for node in nodes if _replication(node)["role"] == "master"]


def holder_of(nodes: list[RedisServer], slot: int) -> RedisServer:
    with Redis.from_url(nodes[0].url) as client:
        ranges: Any = client.execute_command("CLUSTER SLOTS")
    port = next(found[1] for first, last, found, *_ in ranges if first <= slot <= last)
    return next(node for node in nodes if node.port == port)


def replica_of(primary: RedisServer, nodes: list[RedisServer]) -> RedisServer:
    """One that has all of its data."""

    def found() -> list[RedisServer]:
        states = [(node, _replication(node)) for node in nodes if node is not primary]
        return [
            node
            for node, state in states
            if state.get("master_port") == primary.port and state["master_link_status"] == "up"
        ]

    wait_for(found)
    return found()[0]


def _replication(node: RedisServer) -> dict[str, Any]:
    with Redis.from_url(node.url) as client:
        state: dict[str, Any] = client.info("replication")
        return state


class SlotMove:
    """One slot on its way from one primary to another, as `redis-cli --cluster reshard` does it."""

    def __init__(self, nodes: list[RedisServer], slot: int, source: RedisServer, target: RedisServer) -> None:
        self._nodes = nodes
        self._slot = slot
        self._source = source
        self._target = target

    def begin(self) -> None:
        self._set(self._target, "IMPORTING", node_id(self._source))
        self._set(self._source, "MIGRATING", node_id(self._target))

    def move(self, keys: int, *options: str) -> int:
        """So many keys, and how many there were. `options`: of MIGRATE."""
        with Redis.from_url(self._source.url) as source:
            found: Any = source.execute_command("CLUSTER GETKEYSINSLOT", self._slot, keys)
            if found:
                to = "127.0.0.1", self._target.port, "", 0, 5000
                source.execute_command("MIGRATE", *to, *options, "KEYS", *found)
            return len(found)

    def move_all(self, *options: str) -> None:
        while self.move(10, *options):
            pass

    def end(self) -> None:
        for node in (self._target, self._source, *primaries(self._nodes)):
            self._set(node, "NODE", node_id(self._target))

    def cancel(self) -> None:
        """The slot stays where it is, and what has moved stays where it went."""
        for node in (self._source, self._target):
            self._set(node, "STABLE")

    def _set(self, node: RedisServer, *what: str) -> None:
        with Redis.from_url(node.url) as client:
            client.execute_command("CLUSTER SETSLOT", self._slot, *what)
