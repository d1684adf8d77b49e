"""How a changed policy gets from its file into every worker, all or nothing; runs in the supervisor.

A change of the file, a signal or an operator starts it. The policy is compiled beside, and only a good one reaches the
workers. What is bad is told (log, metric, /readyz, GET /policy) and leaves the good one in force.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.observability.metrics import POLICY_RELOAD_FAILURES, POLICY_RELOADED
from ext_authz.reload.compiler import Rejected, compile_policy
from ext_authz.reload.watch import Watch

POLL = 1.0
"""Seconds between two looks at the file."""
_AGAIN = 10.0
"""Seconds until a worker that could not take a good policy is asked again."""
_PATIENCE = 30.0
_WAIT = 0.02

logger = logging.getLogger(__name__)


class Role(StrEnum):
    """What a policy is for."""

    POLICY = "policy"
    """In force: it answers."""
    SHADOW = "shadow"
    """A candidate that looks on."""


class Order(Struct, frozen=True):
    """To a worker: put this compiled policy in force."""

    number: int
    """Counts up, for each role."""
    role: Role
    file: str
    hash: str


class Holding(Struct, frozen=True):
    """From a worker: what it has."""

    hash: str = ""
    """Empty: none."""
    order: int = 0
    """Number of the last order that it carried out or refused."""
    why: str = ""
    """Why it refused that one; empty when it did not."""


class Workers(Protocol):
    """The worker processes."""

    def order(self, order: Order) -> None: ...

    def holding(self, role: Role) -> Sequence[Holding]:
        """One per worker, as last reported."""
        ...


Compiler = Callable[[Path, Path], Awaitable[str]]
"""From the policy to its compiled form and its hash; raises Rejected."""


class Outcome(Struct, frozen=True):
    """How a reload ended."""

    hash: str
    """In force now; several, separated by a space, when the workers do not agree."""
    changed: bool = False
    faults: tuple[str, ...] = ()
    """Why the policy in the file is not in force; empty when it is."""


class Rollout:
    """One policy file. `directory` is where the compiled form goes."""

    def __init__(
        self,
        role: Role,
        path: Path,
        workers: Workers,
        *,
        directory: Path,
        clock: Clock,
        compiler: Compiler = compile_policy,
    ) -> None:
        self.role = role
        self._path = path
        self._workers = workers
        self._directory = directory
        self._clock = clock
        self._compile = compiler
        self._watch = Watch(path)
        self._lock = asyncio.Lock()
        self._number = 0
        self._since = clock.now()
        self._rejected: tuple[str, ...] = ()
        self._rejected_at = 0.0
        self._due_at = math.inf if role is Role.POLICY else -math.inf
        """When to reload although the file is the same. The workers start with a policy and without a shadow."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop: reload when the file was changed."""
        if self.role is Role.POLICY:
            POLICY_RELOADED.labels(self.role).set(self._since)
        while not await _set_within(stop, POLL):
            if await asyncio.to_thread(self._watch.changed) or self._clock.monotonic() >= self._due_at:
                await self._reload()

    async def reload(self) -> Outcome:
        """Now, whether the file was changed or not."""
        await asyncio.to_thread(self._watch.take_note)
        return await self._reload()

    def hashes(self) -> list[str]:
        """What is in force, most often one."""
        return sorted({holding.hash for holding in self._workers.holding(self.role) if holding.hash})

    def status(self) -> dict[str, object]:
        """For GET /policy."""
        status: dict[str, object] = {
            "path": str(self._path),
            "hash": " ".join(self.hashes()),
            "since": self._since,
            "workers": [holding.hash for holding in self._workers.holding(self.role)],
        }
        if self._rejected:
            status |= {"rejected": list(self._rejected), "rejected_at": self._rejected_at}
        return status

    def short(self) -> dict[str, str]:
        """For /readyz, where anybody reads: not what stands in a policy."""
        rejected = {"rejected": "the file is not good: tollgate policy status says why"} if self._rejected else {}
        return {"hash": " ".join(self.hashes())} | rejected

    async def _reload(self) -> Outcome:
        async with self._lock:
            self._due_at = math.inf
            self._number += 1
            file = self._directory / f"{self.role}-{self._number}.compiled"
            try:
                digest = await self._compile(self._path, file)
                changed = await self._roll_out(digest, file)
            except Rejected as wrong:
                return self._reject(tuple(wrong.faults))
            finally:
                file.unlink(missing_ok=True)
            return self._accept(digest, changed=changed)

    async def _roll_out(self, digest: str, file: Path) -> bool:
        """False when every worker has it already."""
        if all(holding.hash == digest for holding in self._workers.holding(self.role)):
            return False
        deadline = self._clock.monotonic() + _PATIENCE
        self._workers.order(Order(self._number, self.role, str(file), digest))
        while any(holding.order < self._number for holding in self._workers.holding(self.role)):
            if self._clock.monotonic() > deadline:
                break
            await asyncio.sleep(_WAIT)
        if refusals := list(_refusals(self._workers.holding(self.role), digest)):
            self._due_at = self._clock.monotonic() + _AGAIN
            raise Rejected(refusals)
        return True

    def _accept(self, digest: str, *, changed: bool) -> Outcome:
        self._rejected = ()
        if changed:
            self._since = self._clock.now()
            POLICY_RELOADED.labels(self.role).set(self._since)
            logger.info("policy reloaded", extra={"policy": digest, "kind": self.role.value})
        return Outcome(digest, changed)

    def _reject(self, faults: tuple[str, ...]) -> Outcome:
        self._rejected, self._rejected_at = faults, self._clock.now()
        POLICY_RELOAD_FAILURES.labels(self.role).inc()
        in_force = " ".join(self.hashes())
        told = {"policy": in_force, "kind": self.role.value, "error": "; ".join(faults[:3]), "count": len(faults)}
        logger.error("policy rejected, the one in force stays", extra=told)
        return Outcome(in_force, faults=faults)


def _refusals(holdings: Sequence[Holding], digest: str) -> list[str]:
    return [
        f"worker {number} keeps policy {holding.hash}: {holding.why or 'it has not answered yet'}"
        for number, holding in enumerate(holdings, 1)
        if holding.hash != digest
    ]


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
