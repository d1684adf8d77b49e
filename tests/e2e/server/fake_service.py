"""A Service that does what the message says, so that a test decides what a check does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ext_authz.errors import ConfigError
from ext_authz.observability.metrics import CHECKS
from ext_authz.server.messages import Difference, Report
from ext_authz.server.sources import Role
from ext_authz.server.worker import LINE_FD
from ext_authz.settings import Settings

ALLOW = b"\x0a\x00\x1a\x00"
"""A CheckResponse with an empty status (OK) and an empty ok_response."""


class FakeService:
    """`sleep <seconds>` waits, `raise` is a bug, `pid` says who answers, `babble` writes nonsense to the supervisor,
    all else is echoed."""

    def __init__(self, down: Path) -> None:
        self._down = down

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Leaves a mark, so that a test sees that it was called."""
        (self._down.parent / f"stopped-{os.getpid()}").touch()

    async def check(self, message: bytes) -> bytes:
        CHECKS.labels("fake", "allowed").inc()
        if message.startswith(b"sleep "):
            return await self._sleep(float(message[6:]))
        if message == b"babble":
            for packet in (b"no json", b"\xff", b'{"type": "unheard of"}'):
                os.write(int(os.environ[LINE_FD]), packet)
            return b"babbled"
        if message == b"raise":
            raise RuntimeError("a secret detail")
        return b"%d" % os.getpid() if message == b"pid" else message

    async def _sleep(self, seconds: float) -> bytes:
        """Leaves a mark when it begins and when it is cancelled."""
        (self._down.parent / "sleeping").touch()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            (self._down.parent / "cancelled").touch()
            raise
        return b"slept"

    def report(self) -> Report:
        """Down are the dependencies that the test wrote into a file."""
        down = json.loads(self._down.read_text()) if self._down.exists() else []
        names = ("redis", "postgres")
        lacking = tuple(name for name in names if name in down)
        return Report({Role.POLICY: "none"}, up={name: name not in down for name in names}, lacking=lacking)

    def differences(self) -> Sequence[Difference]:
        return ()


class SlowAllow(FakeService):
    """Every check is allowed, after long enough that many are in flight."""

    async def check(self, message: bytes) -> bytes:
        CHECKS.labels("fake", "allowed").inc()
        await asyncio.sleep(0.8)
        return ALLOW


class HeldAllow(FakeService):
    """Every check is allowed once the test says so, by a file."""

    async def check(self, message: bytes) -> bytes:
        while not self._down.with_name("released").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)
        return ALLOW


class EmptyService(FakeService):
    """What a server alone costs."""

    async def check(self, message: bytes) -> bytes:
        return ALLOW


def _file(name: str) -> Path:
    """Where the test speaks to the fake."""
    return Path(os.environ["FAKE_DIRECTORY"]) / name


def build(_: Settings) -> FakeService:
    return FakeService(_file("down.json"))


def build_slow_allow(_: Settings) -> FakeService:
    return SlowAllow(_file("down.json"))


def build_held_allow(_: Settings) -> FakeService:
    return HeldAllow(_file("down.json"))


def build_empty(_: Settings) -> FakeService:
    return EmptyService(_file("down.json"))


def build_wrong(_: Settings) -> FakeService:
    raise ConfigError("policy.yaml: rules[0]: nothing is right")


def build_wrong_later(settings: Settings) -> FakeService:
    if _file("wrong").exists():
        raise ConfigError("policy.yaml: nothing is right any more")
    return build(settings)
