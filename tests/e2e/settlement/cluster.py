"""A Redis Cluster of three masters from the same redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis

from tests.services import RedisServer, wait_for

SLOTS = 16_384


@contextmanager
def running_cluster(directory: Path, masters: int = 3) -> Iterator[list[RedisServer]]:
    """The first node holds the first slots, and so on."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(_running_node(directory / str(number))) for number in range(masters)]
        clients = [stack.enter_context(Redis.from_url(node.url)) for node in nodes]
        for number, client in enumerate(clients):
            first, end = SLOTS * number // masters, SLOTS * (number + 1) // masters
            client.execute_command("CLUSTER ADDSLOTS", *range(first, end))
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        wait_for(lambda: all(_agrees(client, masters) for client in clients))
        yield nodes


@contextmanager
def _running_node(directory: Path) -> Iterator[RedisServer]:
    directory.mkdir()
    node = RedisServer(directory, "--cluster-enabled", "yes")
    while node.port + 10_000 > 65_535:  # there the nodes talk to each other
        node = RedisServer(directory, "--cluster-enabled", "yes")
    node.start()
    try:
        yield node
    finally:
        node.kill()


def _agrees(client: Redis, masters: int) -> bool:
    info = client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == masters)
