"""The policy in force and its shadow, for all workers: what reloads them, and what /policy says about them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import to_builtins

from ext_authz.clock import Clock
from ext_authz.reload.differences import differences_in
from ext_authz.reload.rollout import Holding, Order, Outcome, Role, Rollout
from ext_authz.server.process import WorkerProcess
from ext_authz.settings import Settings


class Policies:
    """One rollout per policy file. `directory` is private to this `serve`."""

    def __init__(self, settings: Settings, workers: Sequence[WorkerProcess], directory: Path, clock: Clock) -> None:
        self._workers = workers
        self._directory = directory
        self._sample = settings.shadow_sample
        paths = {Role.POLICY: settings.policy, Role.SHADOW: settings.shadow_policy}
        self._rollouts = {
            role: Rollout(role, path, self, directory=directory, clock=clock)
            for role, path in paths.items()
            if path is not None
        }
        self._asked = asyncio.Event()
        self._running = False

    async def run(self, stop: asyncio.Event) -> None:
        """Once the workers are there, until told to stop."""
        self._running = True
        tasks = [asyncio.create_task(rollout.run(stop)) for rollout in self._rollouts.values()]
        tasks.append(asyncio.create_task(self._reload_when_asked()))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._running = False
            for task in (stopped, *tasks):
                task.cancel()
            results = await asyncio.gather(stopped, *tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def ask(self) -> None:
        """Reload soon; for signal handlers."""
        self._asked.set()

    async def reload(self) -> Mapping[Role, Outcome] | None:
        """Read both files now; None when the workers are not there yet or no more."""
        if not self._running:
            return None
        return {role: await rollout.reload() for role, rollout in self._rollouts.items()}

    def order(self, order: Order) -> None:
        for worker in self._workers:
            worker.order(order)

    def holding(self, role: Role) -> Sequence[Holding]:
        return [worker.holding(role) for worker in self._workers]

    def status(self) -> dict[str, object]:
        """For GET /policy."""
        return {role: rollout.status() for role, rollout in self._rollouts.items()}

    def short(self) -> dict[str, object]:
        """For /readyz."""
        return {role: rollout.short() for role, rollout in self._rollouts.items()}

    def info(self) -> Counter[tuple[str, str]]:
        """How many workers hold a policy, by role and hash."""
        return Counter(
            (role.value, holding.hash) for role in self._rollouts for holding in self.holding(role) if holding.hash
        )

    async def shadow(self) -> dict[str, object]:
        """For GET /policy/shadow: what the candidate would have decided otherwise, the latest first."""
        differences = await asyncio.to_thread(differences_in, self._directory)
        hashes = {role.value: " ".join(rollout.hashes()) for role, rollout in self._rollouts.items()}
        return {**hashes, "sample": self._sample, "differences": to_builtins(differences)}

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()
