"""All parts in start order, with a handle on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from devstack.stack import addresses, services
from devstack.stack.applications import applications, upstreams
from devstack.stack.child import Child, Part
from devstack.stack.directory import StateDirectory, clean
from devstack.stack.monitoring import monitoring
from devstack.stack.postgres import postgres
from devstack.stack.probe import ensure_free, free_ports, reach_loopback_directly
from devstack.stack.settings import OWN_ADDRESSES, REPLACEABLE, StackSettings, load_stack_settings
from devstack.stack.triton import startable, tritons
from devstack.stack.variants import instances
from ext_authz.errors import ConfigError

Report = Callable[[Literal["starting", "ready", "stopping"], Part], None]
"""Called as parts start and stop."""


def _silent(_event: str, _part: Part) -> None: ...


class Stack:
    """One set of parts on one state directory, whose lock the caller holds."""

    def __init__(self, settings: StackSettings, state: StateDirectory) -> None:
        """Raises ConfigError when something that is to be started is not installed. Starts nothing yet."""
        reach_loopback_directly()
        self.settings = settings
        self.state = state
        self.addresses = addresses.resolve(settings, state)
        policy = services.policy_of(settings, state, self.addresses)
        wanted = () if settings.triton else instances(policy.experiments.values())
        found = startable(settings.models, wanted) if wanted else ()
        # Whether it can be started or not: where nobody listens, Envoy answers 503.
        variants = {each.variant: addresses.own_triton(state, each.name) for each in wanted[1:]}
        own = tuple(applications(settings, state, self.addresses, policy))
        self.parts: tuple[Part, ...] = (
            postgres(settings, state),
            services.redis(settings, state),
            services.identity(settings, state, self.addresses),
            *tritons(settings, state, self.addresses, found),
            *services.console(settings, state, self.addresses, policy),
            services.authorizer(settings, state, self.addresses),
            services.usage_worker(settings, state, self.addresses),
            *own,
            services.envoy(settings, state, self.addresses, variants, upstreams(state, own)),
            *monitoring(settings, state, self.addresses, [each.name for each in found]),
        )

    @property
    def children(self) -> list[Child]:
        """The parts that are started here."""
        return [part for part in self.parts if isinstance(part, Child)]

    def start(self, report: Report = _silent, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the parts in order, each when the one before answers.

        Raises:
            ConfigError: a port is taken, or a server that a setting names does not answer.
            ChildFailed: a part ended or never answered. The parts before it run on: `stop` them.
        """
        ensure_free(self.settings, [port for child in self.children for port in child.ports])
        for part in self.parts:
            if is_cancelled():
                return
            report("starting", part)
            part.start(is_cancelled)
            report("ready", part)

    def stop(self, report: Report = _silent) -> None:
        """Stop what runs, in reverse order."""
        for child in reversed(self.children):
            if child.is_running:
                report("stopping", child)
            child.stop()

    def dead(self) -> Child | None:
        """The first child that ended on its own."""
        return next((child for child in self.children if not child.is_running), None)

    def child(self, name: str) -> Child:
        """The handle of a part, to kill and start again."""
        for child in self.children:
            if child.name == name:
                return child
        raise ConfigError(f"{name} is not a child of this stack")

    @property
    def variables(self) -> dict[str, str]:
        """The settings for commands beside this stack. They mark the addresses of our own parts, so that an `up` in a
        shell that has them starts these again."""
        settings, to = self.settings, self.addresses
        own = (getattr(to, name) for name in REPLACEABLE if not getattr(settings, name))
        ours = services.service_settings(settings, to)
        return {f"TOLLGATE_{name.upper()}": value for name, value in ours.items()} | {OWN_ADDRESSES: " ".join(own)}

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
        clean(state)
        stack = Stack(settings, state)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def _free_ports() -> dict[str, object]:
    names = [name for name in StackSettings.model_fields if name.endswith("_port")]
    return dict(zip(names, free_ports(len(names)), strict=True))
