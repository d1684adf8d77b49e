"""The state directory: everything that the stack writes, with one lock; and what a killed `up` left behind.

The directory itself may be walked through, because Postgres runs as another user when root starts it; the parts'
directories in it may not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from devstack.stack.child import Child, Part, end, is_alive
from ext_authz.environment import ENV_FILE, env_file, read_env_file, variable
from ext_authz.errors import ConfigError
from ext_authz.running_stack import LOCK, SETTINGS, stacks_directory
from ext_authz.server.ports import ensure_private
from ext_authz.settings import private_directory

MARK = "TOLLGATE_STACK"
"""Environment variable of every child and all that it starts: identifies orphans (`clean`)."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel keeps it, not a directory for files of ours
_PLAIN = re.compile(r"/[A-Za-z0-9/_.+-]{1,60}", re.ASCII)
_OR_MOVE = (
    "or set TOLLGATE_STATE_DIR to a path of at most 60 characters without blanks or letters outside ASCII, so that it "
    "is not needed"
)
_HARMLESS = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER")


class AlreadyUp(ConfigError):
    """Another `up` holds the lock."""


class PartRecord(Struct, frozen=True):
    """Of one part, for `status`."""

    name: str
    probe: str
    pid: int = 0
    """0: not ours."""
    since: float = 0.0
    setting: str = ""


class Record(Struct, frozen=True):
    """What `up` writes down for `status` and `down`. Holds no secret."""

    pid: int
    """Of `up` itself."""
    is_ready: bool
    parts: tuple[PartRecord, ...] = ()
    ended_at: float = 0.0
    """Seconds since the epoch; 0 while it runs, and after a kill."""
    how: str = ""
    """Why it ended, in a few words."""


class StateDirectory:
    """Paths, secrets, the lock and the record of one stack."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record_file = root / "run.json"
        self._lock = root / LOCK

    @property
    def mark(self) -> str:
        """Identifies this stack among others of the same machine."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:12]

    @property
    def shared_memory_prefix(self) -> str:
        """Of Triton's regions, so that those of another Triton on this machine are never touched."""
        return f"tollgate_{self.mark}_"

    def shared_memory(self, part: str = "") -> list[Path]:
        """The regions of one Triton of this stack; empty: of each."""
        return list(_SHARED_MEMORY.glob(f"{self.shared_memory_prefix}{f'{part}_' if part else ''}*"))

    def create(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o711)
        except OSError as error:
            raise ConfigError(f"TOLLGATE_STATE_DIR: cannot write to {self.root}: {error.strerror}") from None

    def part(self, name: str) -> Path:
        """A part's own directory, closed to others."""
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def plain_part(self, name: str) -> Path:
        """A directory for what can be made again, with a short name without blanks or letters outside ASCII: the part's
        own, or one in /tmp. Triton puts its paths into a shell command without quoting them, links resolved.

        Raises:
            ConfigError: another user owns that path.
        """
        if _PLAIN.fullmatch(str(self.root)):
            return self.part(name)
        private = private_directory()
        ensure_private(private, _OR_MOVE)
        path = private / f"{name}-{self.mark}"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.part("log") / f"{name}.log"

    def secret(self, part: str, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
        """A random secret, made on first use, that only the owner can read."""
        file = self.part(part) / name
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(make())
        return file.read_text()

    def rotate_logs(self) -> None:
        """Each run has its own logs; those of the last one stay beside them."""
        for log in self.part("log").glob("*.log"):
            log.replace(log.with_suffix(".log.old"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory; the kernel releases it however this process ends.

        Raises:
            AlreadyUp: another process holds it.
        """
        self.create()
        self._lock.touch(mode=0o600)  # whoever can read it can lock it
        with self._lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyUp(
                    f"the stack in {self.root} already runs (process {self.holder() or 'unknown'}): "
                    "stop it with tollgate down, or set TOLLGATE_STATE_DIR to start another one"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            file.truncate(0)

    def holder(self) -> int:
        """Process id of the `up` that holds the lock; 0 when none does."""
        try:
            with self._lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or 0)
        except FileNotFoundError:
            pass
        return 0

    def list_settings(self, variables: Mapping[str, str]) -> None:
        """Let commands beside this stack find them, until `unlist` or the end of this process. They hold passwords.

        Raises:
            OSError: this user's directory for it cannot be written.
        """
        _write_private(self.root / SETTINGS, "".join(f"{name}={value}\n" for name, value in variables.items()))
        stacks_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(stacks_directory() / self.mark, f"{self.root.absolute()}\n")

    def unlist(self) -> None:
        """Also after an earlier run that was killed."""
        for file in (self.root / SETTINGS, stacks_directory() / self.mark):
            with suppress(OSError):
                file.unlink()

    def write_record(self, record: Record) -> None:
        """Whole or not at all: `status` may read at any time."""
        unfinished = self.record_file.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.encode(record))
        unfinished.replace(self.record_file)

    def last_record(self) -> Record | None:
        """Of the `up` that runs or ran last; None where none ever did, or another version of Tollgate wrote it."""
        try:
            return msgspec.json.decode(self.record_file.read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def record(self) -> Record | None:
        """None when no `up` is running, whatever an earlier one left."""
        record = self.last_record()
        return record if record and not record.ended_at and record.pid == self.holder() else None


def _write_private(file: Path, text: str) -> None:
    """Whole or not at all, and never for others to read."""
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.replace(file)


def running_record(parts: Sequence[Part], *, is_ready: bool) -> Record:
    """Of the `up` that is this process."""
    described = (
        PartRecord(part.name, part.probe, part.pid, part.started_at)
        if isinstance(part, Child)
        else PartRecord(part.name, part.probe, setting=part.setting)
        for part in parts
    )
    return Record(os.getpid(), is_ready, tuple(described))


def ended_record(pid: int, how: str) -> Record:
    return Record(pid, is_ready=False, ended_at=time.time(), how=how)


def bare(state: StateDirectory) -> dict[str, str]:
    """Environment of third-party programs: no secrets. No LD_LIBRARY_PATH: the models' Python would use it."""
    kept = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    return {"PATH": os.defpath, **kept, MARK: state.mark}


def full(state: StateDirectory, **settings: str) -> dict[str, str]:
    """Environment of our own programs: everything that the operator set, also in an env file, and the settings of the
    stack."""
    file = env_file()
    given = {**os.environ, **(read_env_file(file) if file else {}), ENV_FILE: os.devnull}
    return {**given, **{variable(name): value for name, value in settings.items()}, MARK: state.mark}


def clean(state: StateDirectory) -> list[str]:
    """End and remove what a killed `up` left; a line for each. Only while holding the lock: then nothing is in use."""
    orphans = [process for process in psutil.process_iter() if _is_ours(process, state)]
    done = [f"ended {process.name()} (process {process.pid}), left by an earlier run" for process in orphans]
    end(orphans)
    # Its process is gone, but another may have the same number by now, and Postgres would wait for that one.
    (state.root / "postgres" / "data" / "postmaster.pid").unlink(missing_ok=True)
    remove_shared_memory(state)
    return done


def _is_ours(process: psutil.Process, state: StateDirectory) -> bool:
    """Postgres writes its titles over its environment, but stays in its data directory."""
    try:
        data = str((state.root / "postgres" / "data").resolve())
        is_postgres = process.name() == "postgres" and process.cwd() == data
        return is_alive(process) and (is_postgres or process.environ().get(MARK) == state.mark)
    except psutil.Error:
        return False


def remove_shared_memory(state: StateDirectory, part: str = "") -> None:
    """Triton leaves its regions behind when it is killed."""
    for region in state.shared_memory(part):
        region.unlink(missing_ok=True)
