"""Whether the policy was changed: by looking, since no notification comes from a network file system or a bind mount.

A Kubernetes ConfigMap is a directory of links through `..data`, which is swapped in one step: the links are followed,
and the names with a leading dot left out.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_MOST = 1000
"""Files; a policy may have fewer."""
_FRESH = 2.0
"""Seconds in which a file could be written twice without a difference in its time stamp."""

Stamp = tuple[tuple[str, int, int, int, int], ...]


class Watch:
    """One file or directory. Every method blocks for as long as reading the policy takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp = ()
        self._seen = b""
        self._content = self._seen = self._look()

    def changed(self) -> bool:
        """There is other content than at the last yes, and it was the same at two looks: nobody is writing it."""
        before, self._seen = self._seen, self._look()
        if self._seen == self._content or self._seen != before:
            return False
        self._content = self._seen
        return True

    def take_note(self) -> None:
        """Somebody reads what stands there now without having been told by `changed`."""
        self._content = self._seen = self._look()

    def _look(self) -> bytes:
        stamp = tuple(_stamps(self._path))
        newest = max((modified for _, modified, *_ in stamp), default=0) / 1e9
        if stamp != self._stamp or time.time() - newest < _FRESH:
            self._stamp = stamp
            return _digest(path for path, *_ in stamp)
        return self._seen


def _stamps(path: Path) -> Iterator[tuple[str, int, int, int, int]]:
    for file in sorted(islice(_files(path), _MOST)):
        try:
            found = os.stat(file)  # noqa: PTH116 - strings: a Path each would be most of the cost
        except OSError:
            continue  # it went away meanwhile; that is a change
        yield file, found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size


def _files(path: Path) -> Iterator[str]:
    """A directory whole; a file alone, unless it includes others: those stand in or below its directory."""
    root = path if path.is_dir() else path.parent if _includes(path) else None
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


def _includes(file: Path) -> bool:
    try:
        return any(line.startswith(b"include") for line in file.read_bytes().splitlines())
    except OSError:
        return False


def _digest(files: Iterator[str]) -> bytes:
    whole = hashlib.sha256()
    for file in files:
        try:
            content = Path(file).read_bytes()
        except OSError:
            continue
        whole.update(f"{len(file)} {file} {len(content)} ".encode())
        whole.update(content)
    return whole.digest()
