"""One part of the stack: a child process of ours, or somebody else's server that a setting names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devstack.stack.child import Child
from devstack.stack.probe import answers
from ext_authz.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Part:
    """`child` is None when the server is somebody else's; then `setting` names it."""

    name: str
    probe: str
    """What to ask (`probe.answers`), without credentials."""
    setting: str = ""
    ports: tuple[str, ...] = ()
    """Settings of the ports that it takes."""
    child: Child | None = None

    def start(self, is_cancelled: Callable[[], bool]) -> None:
        """Start it and wait until it answers; what is not ours is only asked.

        Raises:
            ChildFailed, ConfigError: it does not answer.
        """
        if self.child:
            self.child.start(is_cancelled)
        elif not answers(self.probe):
            raise ConfigError(f"{self.setting}: nothing answers at {self.probe}")

    def stop(self) -> None:
        if self.child:
            self.child.stop()

    @property
    def has_died(self) -> bool:
        return self.child is not None and not self.child.is_running
