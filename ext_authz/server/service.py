"""What a server carries: bytes of a CheckRequest in, bytes of a CheckResponse out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, cast

from ext_authz.reload.rollout import Holding, Order, Role
from ext_authz.settings import Settings

APP = "ext_authz.app:build"
"""The factory that every worker process loads; tests name another."""


class Service(Protocol):
    """One worker's authorizer. Servers know nothing else about it."""

    async def start(self) -> None:
        """Open connections. A dependency that is down now is not an error: `up` says so."""
        ...

    async def stop(self) -> None:
        """Hand over what is still in memory and close connections."""
        ...

    async def check(self, message: bytes) -> bytes:
        """Answer one CheckRequest. Never raises for anything a caller sends."""
        ...

    def up(self) -> Mapping[str, bool]:
        """Dependency name to whether it works. Called every second: no I/O."""
        ...

    def lacking(self) -> Collection[str]:
        """Of those that do not work, the ones without which no check gets a verdict. Called every second: no I/O."""
        ...

    def causes(self) -> Mapping[str, str]:
        """Dependency that does not work to why, in one sentence, where that is known. Called every second: no I/O."""
        ...

    def degraded(self) -> Mapping[str, str]:
        """Dependency that is away to what the policy makes of that, in words. Called every second: no I/O."""
        ...

    async def obey(self, order: Order) -> None:
        """Put another policy in force; what came of it stands in `holding`. Never raises."""
        ...

    def holding(self) -> Mapping[Role, Holding]:
        """Which policies it has."""
        ...


def load(factory: str) -> Callable[[Settings], Service]:
    """Import `module:function`."""
    module, _, name = factory.partition(":")
    return cast("Callable[[Settings], Service]", getattr(importlib.import_module(module), name))
