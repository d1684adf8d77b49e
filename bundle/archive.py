"""A directory as one archive: the same files are the same bytes, whoever packs them and when."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path

SUMS = "SHA256SUMS"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def seal(directory: Path) -> None:
    """Write SHA256SUMS of all that it holds, which `sha256sum --check` reads too."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / SUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(directory)}\n" for path in paths]
    (directory / SUMS).write_text("".join(lines))


def pack(directory: Path, into: Path, at: int) -> None:
    """`into` is complete or not there. `at`: the time of every entry, in seconds of the epoch.

    Not compressed: wheels are.
    """
    unfinished = into.with_name(f"{into.name}.{os.getpid()}")
    try:
        with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(directory.rglob("*")):
                if path.is_file():
                    archive.add(path, f"{directory.name}/{path.relative_to(directory)}", filter=_anonymous(at))
        unfinished.rename(into)
    finally:
        unfinished.unlink(missing_ok=True)


def _anonymous(at: int) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    def entry(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = at, 0, 0, "", ""
        info.mode = 0o755 if info.mode & 0o100 else 0o644
        return info

    return entry
