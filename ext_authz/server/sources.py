"""The input files of a generation of workers, and whether one of them was changed.

By looking, since no notification comes from a network file system or a bind mount. A Kubernetes ConfigMap is a
directory of links through `..data`, which is swapped in one step: links are followed, and names with a leading dot are
left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path

from ext_authz.errors import ConfigError

_MOST = 1000
"""Files; a policy may have fewer."""
_MOST_BYTES = (4 << 20) + 1
"""Of one file. The reader of the policy says that it is too large."""
_SUFFIXES = (".yaml", ".yml")
_FRESH = 2.0
"""Seconds in which a file could be written twice without a difference in its time stamp."""


class Role(StrEnum):
    """The input of a worker."""

    POLICY = "policy"
    CANDIDATE = "candidate"
    TLS = "tls"
    SETTINGS = "settings"


POLICIES = (Role.POLICY, Role.CANDIDATE)


Stamp = tuple[tuple[str, int, int, int, int], ...]


class Watch:
    """Files or directories that belong together. Every method blocks for as long as reading them takes."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._stamp: Stamp = ()
        self._seen = b""
        self.content = self._seen = self._look()
        """Digest of what was found at the last change."""

    def changed(self) -> bool:
        """There is other content than at the last yes, the same in two observations: it is not being written."""
        before, self._seen = self._seen, self._look()
        if self._seen == self.content or self._seen != before:
            return False
        self.content = self._seen
        return True

    def take_note(self) -> bytes:
        """The digest of what is there now, which `changed` reports no more."""
        self.content = self._seen = self._look()
        return self.content

    def _look(self) -> bytes:
        stamp = tuple(entry for path in self._paths for entry in _stamps(path))
        newest = max((changed for _, changed, *_ in stamp), default=0) / 1e9
        if stamp != self._stamp or time.time() - newest < _FRESH:
            self._stamp = stamp
            return _digest([path for path, *_ in stamp])
        return self._seen


class Input:
    """The files of one role: what is in force of them, and what is wrong with them."""

    def __init__(self, now: float, paths: Iterable[Path]) -> None:
        self.watch = Watch(*paths)
        self.in_force = self.taken = self.watch.content
        """`taken`: the input of the generation that is starting. The files may have changed again since."""
        self.since = now
        self.faults: tuple[str, ...] = ()
        self.rejected_at = 0.0
        self.again = False
        """The files are not to blame for the faults: to be tried again."""

    @property
    def differs(self) -> bool:
        return self.watch.content != self.in_force


def copied(policy: Path, into: Path) -> tuple[Path, bytes]:
    """Copy a policy, file or directory, below `into`: all workers of a generation, also those that replace a dead one,
    read the same policy, whatever becomes of the files. Also returns the digest of what was copied. Blocking.

    Raises:
        ConfigError: a file cannot be read.
        OSError: the copy cannot be written.
    """
    root = policy if _is_directory(policy) else policy.parent
    real, whole = os.path.realpath(root), hashlib.sha256()
    into.mkdir()
    for name in _found(policy):
        found, leads_to = Path(name), Path(os.path.realpath(name))
        try:
            content = _content(name)
        except OSError as failure:
            if found == policy or found.suffix in _SUFFIXES:
                raise ConfigError(f"{found}: cannot be read ({failure.strerror})") from None
            continue
        target = into / found.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if found == policy or leads_to.is_relative_to(real):
            target.write_bytes(content)
        else:
            target.symlink_to(leads_to)  # it leads out, which is for the reader of the policy to refuse
        _add(whole, name, content)
    return into / policy.relative_to(root), whole.digest()


def _stamps(path: Path) -> Iterator[tuple[str, int, int, int, int]]:
    for file in _found(path):
        try:
            found = os.stat(file)  # noqa: PTH116 - strings: a Path each would be most of the cost
        except OSError:
            continue  # it went away meanwhile; that is a change
        # Not the time of modification, which a copy may bring along.
        yield file, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size


def _found(path: Path) -> list[str]:
    return sorted(islice(_files(path), _MOST))


def _files(path: Path) -> Iterator[str]:
    """A directory whole; a file alone, unless it includes others: those stand in or below its directory."""
    root = path if _is_directory(path) else path.parent if _includes(path) else None
    if root is None:
        yield str(path)
        return
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
    try:
        return any(line.startswith(b"include") for line in _content(str(file)).splitlines())
    except OSError:
        return False


def _content(file: str) -> bytes:
    if not stat.S_ISREG(os.stat(file).st_mode):  # noqa: PTH116 - see _stamps
        raise OSError(0, "not a regular file")  # a pipe would never end
    with Path(file).open("rb") as opened:
        return opened.read(_MOST_BYTES)


def _digest(files: Sequence[str]) -> bytes:
    whole = hashlib.sha256()
    for file in files:
        with suppress(OSError):
            _add(whole, file, _content(file))
    return whole.digest()


def _add(whole: hashlib._Hash, file: str, content: bytes) -> None:
    whole.update(b"%b\0%d\0" % (os.fsencode(file), len(content)))
    whole.update(content)
