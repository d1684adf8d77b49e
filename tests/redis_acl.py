"""The ACL user of docs/adr/0003-limit-algorithm.md, read from there: what is documented is what is tested."""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from tests.services import RedisServer

USER, PASSWORD = "tollgate", "no-secret"
_ADR = Path(__file__).parents[1] / "docs/adr/0003-limit-algorithm.md"
_ALONE, _CLUSTER, _DATABASE = (
    line.split() for line in _ADR.read_text().splitlines() if line.startswith("ACL SETUSER tollgate ")
)


def allow(server: RedisServer, *, cluster: bool = False, database: bool = False) -> str:
    """Make the user there; the URL that connects by it."""
    with Redis.from_url(server.url) as admin:
        for line in (_ALONE, *[_CLUSTER] * cluster, *[_DATABASE] * database):
            admin.execute_command(*(word.replace("PASSWORD", PASSWORD) for word in line))
    return server.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")


def commands(*, cluster: bool = False) -> set[str]:
    """What the user may do, without subcommands."""
    words = [*_ALONE, *(_CLUSTER if cluster else ())]
    return {word[1:].partition("|")[0] for word in words if word.startswith("+")}


def used(server: RedisServer) -> set[str]:
    """The commands that were called since `CONFIG RESETSTAT`, by whomever, in scripts too; without subcommands."""
    with Redis.from_url(server.url) as admin:
        stats = admin.info("commandstats")
    return {name.removeprefix("cmdstat_").partition("|")[0] for name in stats}
