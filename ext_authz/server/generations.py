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
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from ext_authz.clock import Clock
from ext_authz.db.backoff import pause
from ext_authz.environment import variable
from ext_authz.errors import ConfigError
from ext_authz.observability import multiprocess
from ext_authz.observability.metrics import POLICY_CHANGE_REJECTED, POLICY_RELOAD_FAILURES, POLICY_RELOADED
from ext_authz.server.pool import Generation, Pool
from ext_authz.server.process import WorkerProcess
from ext_authz.server.sources import POLICIES, Input, Rejected, Role, copied, in_memory, rejecting, remove
from ext_authz.settings import Settings
from ext_authz.tls import ensure_tls_usable

POLL = 0.3
"""Seconds between two observations of the files."""
_AGAIN = 10.0
"""Seconds until a change that could not be made for another reason than its content is tried again."""
_SETTINGS = {
    Role.POLICY: ("policy",),
    Role.CANDIDATE: ("candidate_policy",),
    Role.TLS: ("tls_cert", "tls_key", "tls_client_ca"),
}
_OF_ONE_GENERATION = frozenset(
    {
        *("candidate_sample", "log_decisions", "max_message_bytes"),
        *("redis_timeout", "postgres_timeout", "jwks_timeout", "jwks_ca_file", "max_token_bytes", "token_cache_size"),
        *("token_cache_bytes", "ledger_max_events", "drain_timeout", "otlp_endpoint", "otlp_ratio"),
    }
)
"""What workers alone go by: a changed value comes into force with the next generation of them."""

logger = logging.getLogger(__name__)


class Generations:
    """Brings changed files into force in the workers of a pool."""

    def __init__(
        self, pool: Pool, settings: Settings, read: Callable[[], Settings], env_file: Path | None, clock: Clock
    ) -> None:
        """`read`: the settings as they are now, with what stands in `env_file`."""
        self._pool = pool
        self._settings = settings
        self._read = read
        self._clock = clock
        self._directory = multiprocess.directory()
        paths = {role: list(_paths(settings, role).values()) for role in _SETTINGS}
        paths[Role.SETTINGS] = [env_file] if env_file else []
        self._inputs = {role: Input(clock.now(), *files) for role, files in paths.items() if files}
        self._copies: dict[Path, Path] = {}
        """By copy: the file or directory that was copied."""
        self.asked = asyncio.Event()
        """Set it to have all files read soon."""
        self._reloading = asyncio.Lock()
        self._due_at = math.inf
        self._running = False

    async def start(self) -> None:
        """The first generation. Raises Rejected."""
        found = {role: each.found for role, each in self._inputs.items()}
        try:
            await self._pool.start(Generation(1, self._with_copies(self._settings, self._settings, found)))
        except Rejected as wrong:
            raise self._with_own_paths(wrong) from None
        if faults := self._pool.workers[0].report.candidate_faults:
            self._reject(Rejected(*faults, role=Role.CANDIDATE), [Role.CANDIDATE])
        for role in self._inputs.keys() & POLICIES:
            POLICY_RELOADED.labels(role).set(self._inputs[role].since)
        self._report_rejected()

    async def run(self, stop: asyncio.Event) -> None:
        """Put changed files into force, until `stop` is set."""
        self._running = True
        try:
            while not stop.is_set():
                await pause(stop, POLL)
                if self.asked.is_set() or self._clock.monotonic() >= self._due_at:
                    self.asked.clear()
                    await self.reload()
                elif changed := [role for role, each in self._inputs.items() if await asyncio.to_thread(each.changed)]:
                    await self._reload(changed)
        finally:
            self._running = False

    async def reload(self) -> Collection[Role] | None:
        """Read all files now. What has changed in force; None when the workers are not there yet or no more."""
        if not self._running:
            return None
        for each in self._inputs.values():
            await asyncio.to_thread(each.read)
        return await self._reload(self._inputs)

    async def _reload(self, roles: Collection[Role]) -> Collection[Role]:
        async with self._reloading:
            self._due_at = math.inf
            for role, each in self._inputs.items():
                if each.rejected and (role in roles or each.rejected.again):
                    each.rejected = None
            changed = {role for role, each in self._inputs.items() if each.found != each.in_force and not each.rejected}
            while changed:
                try:
                    await self._renew({role: self._inputs[role].found for role in changed})
                    break
                except Rejected as wrong:
                    if self._pool.over.is_set():  # whatever starts now is stopped
                        return ()
                    changed -= self._reject(wrong, changed)
            self._report_rejected()
            await self._fill()
            return changed

    def _report_rejected(self) -> None:
        for role, each in self._inputs.items():
            POLICY_CHANGE_REJECTED.labels(role).set(each.rejected is not None)

    async def _fill(self) -> None:
        if (left := await self._pool.fill()) and not self._pool.over.is_set():
            self._due_at = self._clock.monotonic() + _AGAIN
            logger.error("workers of an earlier generation stay for now", extra={"error": "; ".join(left)})
        in_force = self._pool.generation.settings
        used = [path for role in _SETTINGS for path in _paths(in_force, role).values()]
        for copy in list(self._copies):
            if not any(path.is_relative_to(copy) for path in used):
                del self._copies[copy]
                await asyncio.to_thread(remove, copy)

    async def _renew(self, changed: Mapping[Role, bytes]) -> None:
        """The next generation, with what was found in these roles, comes into force, or Rejected says why not."""
        before = self._pool.generation
        settings = self._settings
        if Role.SETTINGS in changed:
            with rejecting(Role.SETTINGS):
                settings = self._read()
                ensure_changeable(self._settings, settings)
        if Role.TLS in changed:
            with rejecting(Role.TLS):
                ensure_tls_usable(settings)

        async def accept(worker: WorkerProcess) -> None:
            if Role.CANDIDATE in changed and (faults := worker.report.candidate_faults):
                raise Rejected(*faults, role=Role.CANDIDATE)

        copies = self._with_copies(settings, before.settings, changed)
        await self._pool.renew(Generation(before.number + 1, copies), accept)
        self._settings = settings
        for role, content in changed.items():
            each = self._inputs[role]
            each.in_force, each.since = content, self._clock.now()
            POLICY_RELOADED.labels(role).set(each.since)
            logger.info("reloaded", extra={"kind": role.value, "policy": self._hashes(role)})

    def _with_copies(self, settings: Settings, before: Settings, changed: Mapping[Role, bytes]) -> Settings:
        """`settings`, with the paths of copies that stay as they are for as long as the generation lives."""
        kept = {name: getattr(before, name) for names in _SETTINGS.values() for name in names}
        for role in _SETTINGS.keys() & changed:
            with rejecting(role, again=True):
                kept |= {name: self._copied(role, path) for name, path in _paths(settings, role).items()}
            if self._inputs[role].look() != changed[role]:
                path = next(iter(_paths(settings, role).values()))
                raise Rejected(f"{path}: was changed while it was read", role=role, again=True)
        return settings.model_copy(update=kept)

    def _copied(self, role: Role, path: Path) -> Path:
        if role is Role.TLS:
            copy = in_memory(path)
            self._copies[copy] = path
            return copy
        into = Path(tempfile.mkdtemp(prefix=f"{role}-", dir=self._directory))
        self._copies[into] = path if path.is_dir() else path.parent
        return copied(path, into)

    def _reject(self, wrong: Rejected, changed: Collection[Role]) -> set[Role]:
        """What cannot come into force because of it."""
        wrong = self._with_own_paths(wrong)
        if wrong.again:
            self._due_at = self._clock.monotonic() + _AGAIN
        rejected = set(changed) & {wrong.role} or set(changed)
        for role in rejected:
            each = self._inputs[role]
            each.rejected, each.rejected_at = wrong, self._clock.now()
            POLICY_RELOAD_FAILURES.labels(role).inc()
            error, count = "; ".join(wrong.faults[:3]), len(wrong.faults)
            extra = {"policy": self._hashes(role), "kind": role.value, "error": error, "count": count}
            logger.error("rejected, what is in force stays", extra=extra)
        return rejected

    def _with_own_paths(self, wrong: Rejected) -> Rejected:
        """About what was copied, where it is about a copy."""
        faults = list(wrong.faults)
        for copy in sorted(self._copies, reverse=True):  # /proc/self/fd/12 before /proc/self/fd/1
            faults = [fault.replace(str(copy), str(self._copies[copy])) for fault in faults]
        return Rejected(*faults, role=wrong.role, again=wrong.again)

    def _hashes(self, role: Role) -> str:
        """What is in force, most often one."""
        return " ".join(sorted({digest for digest in self._held(role) if digest}))

    def _held(self, role: Role) -> list[str]:
        return [worker.report.policies.get(role, "") for worker in self._pool.workers]

    def status(self) -> dict[Role, dict[str, Any]]:
        """For GET /policy."""
        shown = {role: each for role, each in self._inputs.items() if role in POLICIES or each.rejected}
        return {role: self._status(role, each) for role, each in shown.items()}

    def _status(self, role: Role, each: Input) -> dict[str, Any]:
        status: dict[str, Any] = {"since": _iso(each.since)}
        if role in POLICIES:
            (path,) = _paths(self._settings, role).values()
            status |= {"path": str(path), "hash": self._hashes(role), "workers": self._held(role)}
        if each.rejected:
            status |= {"rejected": list(each.rejected.faults), "rejected_at": _iso(each.rejected_at)}
        return status

    def short(self) -> dict[str, object]:
        """For /readyz, where anybody reads: not what stands in a policy."""
        hint = {"rejected": "not in force: tollgate policy status says why"}
        return {
            role: {name: hint.get(name, value) for name, value in each.items() if name in ("hash", "rejected")}
            for role, each in self.status().items()
        }

    def info(self) -> Counter[tuple[str, str]]:
        """How many workers hold a policy, by role and hash."""
        return Counter((role.value, digest) for role in POLICIES for digest in self._held(role) if digest)

    def candidate(self) -> dict[str, object]:
        """For GET /policy/candidate: what the candidate would have decided otherwise, the latest first."""
        latest = sorted(self._pool.differences, key=lambda difference: -difference.at)
        hashes = {role.value: self._hashes(role) for role in POLICIES if role in self._inputs}
        return {**hashes, "sample": self._settings.candidate_sample, "differences": to_builtins(latest)}


def _paths(settings: Settings, role: Role) -> dict[str, Path]:
    """By setting."""
    return {name: path for name in _SETTINGS[role] if (path := getattr(settings, name))}


def _iso(at: float) -> str:
    """In UTC, as commands print times."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ensure_changeable(before: Settings, after: Settings) -> None:
    """Raises ConfigError that names each setting that cannot change while `serve` runs, and was changed."""
    changed = [name for name, value in before if getattr(after, name) != value and name not in _OF_ONE_GENERATION]
    if changed:
        names = ", ".join(map(variable, changed))
        raise ConfigError(f"{names}: cannot change while tollgate serve runs: restart it, or write the former value")
