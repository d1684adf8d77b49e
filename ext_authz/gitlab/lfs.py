"""Files of a repository whose content Git LFS keeps: which they are, and what stands in their place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from msgspec import Struct

MOST_BYTES = 1024
"""Of a pointer; what is longer is none (Git LFS specification)."""
MOST_PATTERNS = 100
_LONGEST = 200
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[0-9]-[^\n]{1,255}\n)*oid sha256:([0-9a-f]{64})\n"
    rb"size (0|[1-9][0-9]{0,17})\n"
)


class File(Struct, frozen=True):
    """As its pointer has it."""

    path: str
    sha256: str
    """In hex."""
    size: int
    """In bytes."""


def file_of(path: str, content: bytes) -> File | None:
    """`content`: what stands in the repository. None: it is no pointer, but the file itself."""
    found = _POINTER.fullmatch(content)
    return File(path, found[1].decode(), int(found[2])) if found else None


def patterns(attributes: str) -> list[str]:
    """Of `.gitattributes` of the root: those of the lines with `filter=lfs`, as `git lfs track` writes them."""
    return [*_patterns(attributes)][:MOST_PATTERNS]


def _patterns(attributes: str) -> Iterator[str]:
    for line in attributes.splitlines():
        pattern, *given = line.split() or [""]
        if "filter=lfs" in given and len(pattern) <= _LONGEST:
            yield pattern


def is_kept(path: str, tracked: Collection[str]) -> bool:
    """A pattern without a slash is of names anywhere. What agrees too often here is read, and is no pointer."""
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in each else name, each.removeprefix("/")) for each in tracked)
