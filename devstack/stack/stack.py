"""All parts in start order, with a handle on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Protocol

from devstack.stack import addresses, authorizer, envoy, identity, leftovers, ports, postgres, redis, triton
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.environment import reach_loopback_directly
from devstack.stack.part import Part
from devstack.stack.settings import StackSettings, load_stack_settings
from ext_authz.errors import ConfigError


class Progress(Protocol):
    """Is told what happens; the default tells nobody."""

    def starting(self, part: Part) -> None: ...

    def ready(self, part: Part) -> None: ...

    def stopping(self, part: Part) -> None: ...


class Silent:
    """Tells nobody."""

    def starting(self, part: Part) -> None: ...

    def ready(self, part: Part) -> None: ...

    def stopping(self, part: Part) -> None: ...


class Stack:
    """One set of parts on one state directory, whose lock the caller holds."""

    def __init__(self, settings: StackSettings, state: StateDirectory) -> None:
        """Raises ConfigError when something that is to be started is not installed. Starts nothing yet."""
        reach_loopback_directly()
        self.settings = settings
        self.state = state
        self.addresses = addresses.resolve(settings, state)
        self.parts = (
            # the truth, its fast copy, who issues tokens, and the models
            postgres.part(settings, state),
            redis.part(settings, state),
            identity.part(settings, state, self.addresses),
            triton.part(settings, state, self.addresses),
            # the door: who decides, who keeps the books, and where callers knock
            authorizer.authorizer(settings, state, self.addresses),
            authorizer.usage_worker(settings, state, self.addresses),
            envoy.part(settings, state, self.addresses),
        )

    def start(self, progress: Progress | None = None, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the parts in order, each when the one before answers.

        Raises:
            ConfigError: a port is taken, or a server that a setting names does not answer.
            ChildFailed: a part ended or never answered. What was started runs on: `stop` it.
        """
        told = progress or Silent()
        ports.ensure_free(self.settings, [port for part in self.parts for port in part.ports])
        for part in self.parts:
            if is_cancelled():
                return
            told.starting(part)
            part.start(is_cancelled)
            told.ready(part)

    def stop(self, progress: Progress | None = None) -> None:
        """Stop what runs, in reverse order."""
        told = progress or Silent()
        for part in reversed(self.parts):
            if part.child and part.child.is_running:
                told.stopping(part)
            part.stop()

    def dead(self) -> Child | None:
        """The first child that ended on its own."""
        return next((part.child for part in self.parts if part.child and not part.child.is_running), None)

    def child(self, name: str) -> Child:
        """The handle of a part, to kill and start again."""
        for part in self.parts:
            if part.name == name and part.child:
                return part.child
        raise ConfigError(f"{name} is not a child of this stack")

    @property
    def postgres(self) -> Child:
        return self.child("postgres")

    @property
    def redis(self) -> Child:
        return self.child("redis")

    @property
    def identity(self) -> Child:
        return self.child("identity")

    @property
    def triton(self) -> Child:
        return self.child("triton")

    @property
    def authorizer(self) -> Child:
        return self.child("authorizer")

    @property
    def usage_worker(self) -> Child:
        return self.child("usage-worker")

    @property
    def envoy(self) -> Child:
        return self.child("envoy")

    @property
    def environment(self) -> dict[str, str]:
        """For the operator's commands (`tollgate revoke ...`) against this stack; holds passwords."""
        return os.environ | self._settings()

    def write_settings(self) -> Path:
        """The same as a file for a shell."""
        file = self.state.root / "operators.env"
        file.touch(mode=0o600)
        file.write_text("".join(f"export {name}={quote(value)}\n" for name, value in self._settings().items()))
        return file

    def _settings(self) -> dict[str, str]:
        ours = authorizer.service_settings(self.settings, self.addresses)
        return {f"TOLLGATE_{name.upper()}": value for name, value in ours.items()}

    @property
    def identity_admin_token(self) -> str:
        """For the development realm's administration: key rotation."""
        return (self.state.part("identity") / "admin-token").read_text().strip()


@contextmanager
def running_stack(state_dir: Path, **overrides: object) -> Iterator[Stack]:
    """A whole stack on free ports, for tests and the demo; several may run at once. `overrides` are settings.

    Its children end with the thread that enters.
    """
    settings = load_stack_settings({**_free_ports(), "state_dir": state_dir, **overrides})
    state = StateDirectory(settings.state_dir)
    with state.locked():
        leftovers.clean(state)
        stack = Stack(settings, state)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def _free_ports() -> dict[str, object]:
    names = [name for name in StackSettings.model_fields if name.endswith("_port")]
    return dict(zip(names, ports.free_ports(len(names)), strict=True))
