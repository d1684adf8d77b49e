"""The state directory: everything that the stack writes, in one place, with one lock.

The directory itself may be walked through, because Postgres runs as another user when root starts it; the parts'
directories in it may not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ext_authz.errors import ConfigError
from ext_authz.server.ports import ensure_private
from ext_authz.settings import private_directory

MARK = "TOLLGATE_STACK"
"""Environment variable of every child and all that it starts: by it, orphans are known (`leftovers.py`)."""

_PLAIN = re.compile(r"/[A-Za-z0-9/_.+-]{1,60}", re.ASCII)
_OR_MOVE = (
    "or set TOLLGATE_STATE_DIR to a path of at most 60 characters without blanks or letters outside ASCII, so that it "
    "is not needed"
)


class AlreadyUp(ConfigError):
    """Another `up` holds the lock."""


class StateDirectory:
    """Names what lies where."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "run.json"
        self._lock = root / "lock"

    @property
    def mark(self) -> str:
        """Names this stack among others of the same machine."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:12]

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
            ConfigError: somebody else holds that place.
        """
        if _PLAIN.fullmatch(str(self.root)):
            return self.part(name)
        place = private_directory()
        ensure_private(place, _OR_MOVE)
        path = place / f"{name}-{self.mark}"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.part("log") / f"{name}.log"

    def secret(self, part: str, name: str) -> str:
        """A random secret, made on first use, that only the owner can read."""
        file = self.part(part) / name
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24))
        return file.read_text()

    def rotate_logs(self) -> None:
        """Each run has logs of its own; those of the last one stay beside them."""
        for log in self.part("log").glob("*.log"):
            log.replace(log.with_suffix(".log.old"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory; the kernel lets go of it however this process ends.

        Raises:
            AlreadyUp: another process holds it.
        """
        self.create()
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
