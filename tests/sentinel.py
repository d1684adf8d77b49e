"""A primary, two replicas and three Sentinels, as processes that tests may kill and stop."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from redis import Redis
from redis.exceptions import RedisError

from tests.services import REDIS, Killable, RedisServer, free_port, wait_for

NAME = "tollgate"
PASSWORD = "of-the-sentinels"
DOWN_AFTER_MS = 1000
"""Silence after which a Sentinel takes a server for dead."""


class SentinelProcess(Killable):
    """The same program as the server, with another configuration, which it rewrites."""

    def __init__(self, directory: Path, primary: RedisServer, program: str) -> None:
        self.port = free_port()
        self._program = program
        self._file = directory / f"sentinel-{self.port}.conf"
        monitored = [
            f"sentinel monitor {NAME} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 5000",
        ]
        own = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", f"requirepass {PASSWORD}", *monitored]
        self._file.write_text("\n".join(own) + "\n")

    def start(self) -> None:
        self._process = subprocess.Popen([self._program, str(self._file), "--sentinel"], stdout=subprocess.DEVNULL)
        wait_for(lambda: self.ask("PING") is not None)

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - redis-py's
        """None where there is no answer, or an error."""
        with Redis(port=self.port, password=PASSWORD) as client, suppress(RedisError):
            return client.execute_command(*words)
        return None

    def monitor(self, server: RedisServer) -> None:
        """Another one than before, as the latest fail-over would."""
        self.ask("SENTINEL", "REMOVE", NAME)
        assert self.ask("SENTINEL", "MONITOR", NAME, "127.0.0.1", str(server.port), "2")

    @property
    def primary(self) -> int:
        """Its port, as this Sentinel knows it."""
        address = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return int(address[1]) if address else 0


class Group:
    """What the product is pointed to."""

    def __init__(self, servers: list[RedisServer], sentinels: list[SentinelProcess]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    def url(self, **options: str) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        given = {"sentinel_password": PASSWORD, **options}
        return f"redis+sentinel://{hosts}/{NAME}/0?{urlencode(given)}"

    @property
    def primary(self) -> RedisServer:
        """On which all Sentinels agree, and which says so itself."""
        wait_for(self._agreed)
        return next(server for server in self.servers if server.port == self.sentinels[0].primary)

    def replicas(self) -> int:
        """That follow the primary with all that it has."""
        with Redis.from_url(self.primary.url) as client, suppress(RedisError):
            found = client.info("replication")
            return sum(
                found[key]["state"] == "online" for key in found if key.startswith("slave") and key[5:].isdigit()
            )
        return 0

    def _agreed(self) -> bool:
        named = {sentinel.primary for sentinel in self.sentinels}
        server = next((server for server in self.servers if named == {server.port}), None)
        if server is None:
            return False
        with Redis.from_url(server.url) as client, suppress(RedisError):
            return bool(client.info("replication")["role"] == "master")
        return False


@contextmanager
def running_group(directory: Path, *options: str, program: str = REDIS) -> Iterator[Group]:
    """`options` are the servers'. Ready for a fail-over."""
    primary = _server(directory / "0", *options, program=program)
    follow = ("--replicaof", "127.0.0.1", str(primary.port))
    replicas = [_server(directory / str(number), *options, *follow, program=program) for number in (1, 2)]
    sentinels = [SentinelProcess(directory, primary, program) for _ in range(3)]
    group = Group([primary, *replicas], sentinels)
    with ExitStack() as started:
        for server in group.servers:
            server.start()
            started.callback(server.kill)
        for sentinel in sentinels:
            sentinel.start()
            started.callback(sentinel.kill)
        wait_for(lambda: group.replicas() == len(replicas))
        wait_for(lambda: all(_knows_all(sentinel) for sentinel in sentinels))
        yield group


def _server(directory: Path, *options: str, program: str) -> RedisServer:
    directory.mkdir()
    return RedisServer(directory, *options, "--repl-diskless-sync-delay", "0", program=program)


def _knows_all(sentinel: SentinelProcess) -> bool:
    """It takes part in elections only then."""
    with Redis(port=sentinel.port, password=PASSWORD) as client:
        state = client.sentinel_masters()[NAME]
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 2)
