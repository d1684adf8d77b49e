"""The input of a generation of workers, and how a change of it comes into force, whole or not at all.

Files are watched. A change of the policy, its candidate, a TLS file or the env file starts one worker that is born with
the change: it reads the policy, fetches keys, and says whether it is ready. If it is, the change is in force, and the
other workers are replaced too. If not, the generation in force stays as it is, and log, metric, /readyz and
`tollgate policy status` say why.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, to_builtins

from ext_authz.clock import Clock
from ext_authz.db.backoff import pause
from ext_authz.errors import ConfigError, TollgateError
from ext_authz.observability import multiprocess
from ext_authz.observability.metrics import POLICY_RELOAD_FAILURES, POLICY_RELOADED
from ext_authz.server import ports
from ext_authz.server.messages import Difference, Differences
from ext_authz.server.pool import Generation, NotYet, Pool
from ext_authz.server.process import PolicyRejected, WorkerDied, WorkerProcess
from ext_authz.server.sources import POLICIES, Input, Role, copied
from ext_authz.settings import Settings, ensure_changeable

POLL = 0.3
"""Seconds between two observations of the files."""
KEPT = 1000
"""Differences of the candidate policy that are remembered."""
_AGAIN = 10.0
"""Seconds until a change that could not be made for another reason than its content is tried again."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Rejected(TollgateError):
    """What stands in the files of these roles cannot come into force now."""

    def __init__(self, roles: Iterable[Role], faults: tuple[str, ...], *, again: bool = False) -> None:
        """`again`: trying once more may help."""
        super().__init__(faults[0])
        self.roles = frozenset(roles)
        self.faults = faults
        self.again = again


class Outcome(Struct, frozen=True):
    """How a reload ended, for one role."""

    hash: str = ""
    """Of the policy in force now; several, separated by a space, when the workers do not agree."""
    changed: bool = False
    faults: tuple[str, ...] = ()
    """Why what stands in the files is not in force; empty when it is."""


class Generations:
    """Brings changed files into force in the workers of a pool."""

    def __init__(self, settings: Settings, read: Callable[[], Settings], env_file: Path | None, clock: Clock) -> None:
        """`read`: the settings as they are now, with what stands in `env_file`."""
        self.pool: Pool
        self._settings = settings
        self._read = read
        self._clock = clock
        self._directory = multiprocess.directory()
        paths: dict[Role, list[Path | None]] = {
            Role.POLICY: [settings.policy],
            Role.CANDIDATE: [settings.candidate_policy],
            Role.TLS: [settings.tls_cert, settings.tls_key, settings.tls_client_ca],
            Role.SETTINGS: [env_file],
        }
        found = {role: [path for path in files if path] for role, files in paths.items()}
        self._inputs = {role: Input(clock.now(), files) for role, files in found.items() if files}
        self._reloading = asyncio.Lock()
        self._asked = asyncio.Event()
        self._due_at = math.inf
        self._running = False
        self._differences: deque[Difference] = deque(maxlen=KEPT)

    async def start(self, pool: Pool) -> None:
        """The first generation. Raises what `Pool.start` does."""
        self.pool = pool
        try:
            await pool.start(Generation(1, self._with_copies(self._settings, self._settings, 1, POLICIES)))
        except ConfigError as wrong:
            raise ConfigError(self._with_own_paths(str(wrong))) from None
        if Role.CANDIDATE in self._inputs and (faults := _candidate_faults(pool.workers[0])):
            self._reject(Rejected({Role.CANDIDATE}, faults))
        for role in self._inputs.keys() & POLICIES:
            POLICY_RELOADED.labels(role).set(self._inputs[role].since)

    async def run(self, stop: asyncio.Event) -> None:
        """Put changed files into force, until `stop` is set."""
        self._running = True
        try:
            while not stop.is_set():
                await pause(stop, POLL)
                if self._asked.is_set() or self._clock.monotonic() >= self._due_at:
                    self._asked.clear()
                    await self.reload()
                elif changed := [role for role in self._inputs if await self._changed(role)]:
                    await self._reload(changed)
        finally:
            self._running = False

    async def _changed(self, role: Role) -> bool:
        return await asyncio.to_thread(self._inputs[role].watch.changed)

    def ask(self) -> None:
        """Reload soon; for signal handlers."""
        self._asked.set()

    async def reload(self) -> Mapping[Role, Outcome] | None:
        """Read all files now; None when the workers are not there yet or no more."""
        if not self._running:
            return None
        for each in self._inputs.values():
            await asyncio.to_thread(each.watch.take_note)
        return await self._reload(self._inputs)

    async def _reload(self, roles: Collection[Role]) -> Mapping[Role, Outcome]:
        async with self._reloading:
            self._due_at = math.inf
            for role, each in self._inputs.items():
                if role in roles or each.again:
                    each.faults, each.again = (), False
            changed = {role for role, each in self._inputs.items() if each.differs and not each.faults}
            while changed:
                try:
                    await self._renew(changed)
                    break
                except Rejected as wrong:
                    self._reject(wrong)
                    changed = changed - wrong.roles if changed & wrong.roles else set()
            await self._fill()
            shown = [role for role in self._inputs if role in POLICIES or self._inputs[role].faults or role in changed]
            return {role: Outcome(self._hashes(role), role in changed, self._inputs[role].faults) for role in shown}

    async def _fill(self) -> None:
        if left := await self.pool.fill():
            self._due_at = self._clock.monotonic() + _AGAIN
            logger.error("workers of an earlier generation stay for now", extra={"error": "; ".join(left)})
        in_force = self.pool.generation.settings
        used = {in_force.policy, in_force.candidate_policy}
        for copy in self._directory.glob("*-copy-*"):
            if not any(path and path.is_relative_to(copy) for path in used):
                await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)

    async def _renew(self, changed: Collection[Role]) -> None:
        """The next generation comes into force, or Rejected says why not."""
        before = self.pool.generation
        settings = self._settings
        for role in changed:
            self._inputs[role].taken = self._inputs[role].watch.content
        if Role.SETTINGS in changed:
            settings = _or_reject({Role.SETTINGS}, self._read)
            _or_reject({Role.SETTINGS}, lambda: ensure_changeable(self._settings, settings))
        # No worker can be born meanwhile, whatever else has changed.
        others = bool(set(changed) - {Role.TLS})
        _or_reject({Role.TLS, *changed}, lambda: ports.ensure_tls_usable(settings), again=others)
        try:
            copies = self._with_copies(settings, before.settings, before.number + 1, changed)
            await self.pool.renew(Generation(before.number + 1, copies), partial(_ensure_candidate, changed))
        except PolicyRejected as wrong:
            raise Rejected({Role.POLICY}, wrong.faults) from None
        except ConfigError as wrong:
            raise Rejected(changed, (str(wrong),)) from None
        except (WorkerDied, NotYet, OSError) as failure:
            raise Rejected(changed, (str(failure),), again=True) from None
        self._settings = settings
        self._note(changed)

    def _with_copies(self, settings: Settings, before: Settings, number: int, changed: Collection[Role]) -> Settings:
        """`settings`, with the paths of copies that stay as they are for as long as the generation lives."""
        kept = {"policy": before.policy, "candidate_policy": before.candidate_policy}
        for role, name in zip(POLICIES, kept, strict=True):
            path: Path | None = getattr(settings, name)
            if role in changed and path is not None:
                kept[name] = self._copy(role, path, self._directory / f"{role}-copy-{number}")
        return settings.model_copy(update=kept)

    def _copy(self, role: Role, path: Path, into: Path) -> Path:
        shutil.rmtree(into, ignore_errors=True)
        try:
            copy, digest = copied(path, into)
        except (ConfigError, OSError) as failure:
            raise Rejected({role}, (str(failure),), again=True) from None
        if digest != self._inputs[role].taken:
            raise Rejected({role}, (f"{path}: was changed while it was read",), again=True)
        return copy

    def _note(self, changed: Collection[Role]) -> None:
        for role in changed:
            each = self._inputs[role]
            each.in_force, each.since = each.taken, self._clock.now()
            POLICY_RELOADED.labels(role).set(each.since)
            logger.info("reloaded", extra={"kind": role.value, "policy": self._hashes(role)})

    def _reject(self, wrong: Rejected) -> None:
        faults = tuple(self._with_own_paths(fault) for fault in wrong.faults)
        if wrong.again:
            self._due_at = self._clock.monotonic() + _AGAIN
        for role in wrong.roles & self._inputs.keys():
            each = self._inputs[role]
            each.faults, each.rejected_at, each.again = faults, self._clock.now(), wrong.again
            POLICY_RELOAD_FAILURES.labels(role).inc()
            extra = {
                "policy": self._hashes(role),
                "kind": role.value,
                "error": "; ".join(faults[:3]),
                "count": len(faults),
            }
            logger.error("rejected, what is in force stays", extra=extra)

    def _with_own_paths(self, text: str) -> str:
        """A sentence about a copy, as one about what was copied."""
        for role, path in ((Role.POLICY, self._settings.policy), (Role.CANDIDATE, self._settings.candidate_policy)):
            if path is not None:
                root = path if path.is_dir() else path.parent
                text = re.sub(rf"{re.escape(str(self._directory))}/{role}-copy-[0-9]+", lambda _: str(root), text)  # noqa: B023 - called at once
        return text

    def _hashes(self, role: Role) -> str:
        """What is in force, most often one."""
        return " ".join(sorted({digest for digest in self._held(role) if digest}))

    def _held(self, role: Role) -> list[str]:
        reports = [worker.report for worker in self.pool.workers]
        if role is Role.POLICY:
            return [report.policy for report in reports]
        return [report.candidate.hash if report.candidate and role is Role.CANDIDATE else "" for report in reports]

    def status(self) -> dict[str, object]:
        """For GET /policy."""
        return {
            role.value: self._status(role) for role in self._inputs if role in POLICIES or self._inputs[role].faults
        }

    def _status(self, role: Role) -> dict[str, object]:
        each = self._inputs[role]
        status: dict[str, object] = {"since": each.since}
        if role in POLICIES:
            path = self._settings.policy if role is Role.POLICY else self._settings.candidate_policy
            status |= {"path": str(path), "hash": self._hashes(role), "workers": self._held(role)}
        if each.faults:
            status |= {"rejected": list(each.faults), "rejected_at": each.rejected_at}
        return status

    def short(self) -> dict[str, object]:
        """For /readyz, where anybody reads: not what stands in a policy."""
        shown: dict[str, object] = {}
        for role, each in self._inputs.items():
            rejected = {"rejected": "not in force: tollgate policy status says why"} if each.faults else {}
            if role in POLICIES or rejected:
                shown[role.value] = ({"hash": self._hashes(role)} if role in POLICIES else {}) | rejected
        return shown

    def info(self) -> Counter[tuple[str, str]]:
        """How many workers hold a policy, by role and hash."""
        return Counter((role.value, digest) for role in POLICIES for digest in self._held(role) if digest)

    def keep(self, differences: Differences) -> None:
        """A worker sends what its candidate policy decided otherwise."""
        self._differences.extend(differences.differences)

    def candidate(self) -> dict[str, object]:
        """For GET /policy/candidate: what the candidate would have decided otherwise, the latest first."""
        latest = sorted(self._differences, key=lambda difference: -difference.at)
        hashes = {role.value: self._hashes(role) for role in POLICIES if role in self._inputs}
        return {**hashes, "sample": self._settings.candidate_sample, "differences": to_builtins(latest)}


def _ensure_candidate(changed: Collection[Role], worker: WorkerProcess) -> None:
    if Role.CANDIDATE in changed and (faults := _candidate_faults(worker)):
        raise Rejected({Role.CANDIDATE}, faults)


def _candidate_faults(worker: WorkerProcess) -> tuple[str, ...]:
    return worker.report.candidate.faults if worker.report.candidate else ()


def _or_reject(roles: Collection[Role], step: Callable[[], T], *, again: bool = False) -> T:
    try:
        return step()
    except ConfigError as wrong:
        raise Rejected(roles, (str(wrong),), again=again) from None
