"""The input files of a generation of workers, and whether one of them was changed.

By looking, since no notification comes from a network file system or a bind mount. A Kubernetes ConfigMap is a
directory of links through `..data`, which is swapped in one step: links are followed, and names with a leading dot are
left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path

from ext_authz.errors import ConfigError, TollgateError

_MOST = 1000
"""Files; a policy may have fewer."""
_MOST_BYTES = (4 << 20) + 1
"""Of one file. The reader of the policy says that it is too large."""
_SUFFIXES = (".yaml", ".yml")
_DESCRIPTORS = Path("/proc/self/fd")
_FRESH = 2.0
"""Seconds in which a file could be written twice without a difference in its time stamp."""


class Role(StrEnum):
    """The input of a worker."""

    POLICY = "policy"
    CANDIDATE = "candidate"
    TLS = "tls"
    SETTINGS = "settings"


POLICIES = (Role.POLICY, Role.CANDIDATE)


class Rejected(TollgateError):
    """What stands in some files cannot come into force now."""

    def __init__(self, *faults: str, role: Role | None = None, again: bool = False) -> None:
        """`faults`: why, in sentences. `role`: whose files are wrong; without it, those of any that were changed.
        `again`: no file is to blame, and trying once more may help."""
        super().__init__(faults[0])
        self.faults = faults
        self.role = role
        self.again = again


@contextmanager
def rejecting(role: Role | None = None, *, again: bool = False) -> Iterator[None]:
    """Turns what the block raises into Rejected."""
    try:
        yield
    except ConfigError as wrong:
        raise Rejected(str(wrong), role=role, again=again) from None
    except OSError as failure:
        raise Rejected(str(failure), role=role, again=True) from None


class Input:
    """The files or directories of one role. Methods block for as long as reading them takes."""

    def __init__(self, now: float, *paths: Path) -> None:
        self._paths = paths
        self._looked: tuple[dict[str, tuple[int, ...]], bytes] = {}, b""
        self.found = self.in_force = self._seen = self.look()
        """Digests: of the content at the last change, and of what workers have."""
        self.since = now
        self.rejected: Rejected | None = None
        """Why `found` is not in force."""
        self.rejected_at = 0.0

    def changed(self) -> bool:
        """There is other content than at the last yes, the same in two observations: it is not being written."""
        before, self._seen = self._seen, self.look()
        if self._seen == self.found or self._seen != before:
            return False
        self.found = self._seen
        return True

    def read(self) -> None:
        """What is there now is found, whether it is being written or not."""
        self.found = self._seen = self.look()

    def look(self) -> bytes:
        """The digest of what is there now."""
        stamps = {file: _stamp(file) for path in self._paths for file in _found(path)}
        newest = max((changed for changed, *_ in stamps.values()), default=0)
        if stamps == self._looked[0] and time.time() - newest / 1e9 > _FRESH:
            return self._looked[1]
        whole = hashlib.sha256()
        for file in stamps:
            with suppress(OSError):
                content = _content(file)
                whole.update(b"%b\0%d\0%b" % (os.fsencode(file), len(content), content))
        self._looked = stamps, whole.digest()
        return self._looked[1]


def copied(policy: Path, into: Path) -> Path:
    """Copy a policy, file or directory, to a directory: all workers of a generation, also those that replace a dead
    one, read the same policy, whatever becomes of the files. Blocking.

    Raises:
        ConfigError: a file cannot be read.
        OSError: the copy cannot be written.
    """
    root = policy if _is_directory(policy) else policy.parent
    for found in map(Path, _found(policy)):
        target, leads_to = into / found.relative_to(root), Path(os.path.realpath(found))
        try:
            content = _content(str(found))
        except OSError as failure:
            if found == policy or found.suffix in _SUFFIXES:
                raise ConfigError(f"{found}: cannot be read ({failure.strerror})") from None
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if found == policy or leads_to.is_relative_to(os.path.realpath(root)):
            target.write_bytes(content)
        else:
            target.symlink_to(leads_to)  # it leads out, which is for the reader of the policy to refuse
    return into / policy.relative_to(root)


def in_memory(file: Path) -> Path:
    """A copy for this process and those that inherit the descriptor, which is its name."""
    content = file.read_bytes()
    descriptor = os.memfd_create(file.name)
    os.write(descriptor, content)
    return _DESCRIPTORS / str(descriptor)


def remove(copy: Path) -> None:
    """A directory, or what is in memory."""
    if copy.parent == _DESCRIPTORS:
        os.close(int(copy.name))
    else:
        shutil.rmtree(copy, ignore_errors=True)


def _stamp(file: str) -> tuple[int, ...]:
    try:
        found = os.stat(file)  # noqa: PTH116 - strings: a Path each would be most of the cost
    except OSError:
        return (0,)  # that it went away is a change
    # Not the time of modification, which a copy may bring along.
    return found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size


def _found(path: Path) -> list[str]:
    """A directory whole; a file alone, unless it includes others: those stand in or below its directory."""
    root = path if _is_directory(path) else path.parent if _includes(path) else None
    return [str(path)] if root is None else sorted(islice(_below(root), _MOST))


def _below(root: Path) -> Iterator[str]:
    entered: set[str] = set()
    for directory, folders, names in os.walk(root, followlinks=True):
        # A link may lead back up.
        real = os.path.realpath(directory)
        folders[:] = [] if real in entered else sorted(name for name in folders if name[0] != ".")
        entered.add(real)
        yield from (f"{directory}/{name}" for name in sorted(names) if name[0] != ".")


def _is_directory(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises without the permission to look


def _includes(file: Path) -> bool:
    with suppress(OSError):
        return any(line.startswith(b"include") for line in _content(str(file)).splitlines())
    return False


def _content(file: str) -> bytes:
    if not stat.S_ISREG(os.stat(file).st_mode):  # noqa: PTH116 - see _stamp
        raise OSError(0, "not a regular file")  # a pipe would never end
    with Path(file).open("rb") as opened:
        return opened.read(_MOST_BYTES)
