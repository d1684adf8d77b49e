"""The files in which each process counts, and what becomes of them when it is dead. Import it after `prepare`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

from ext_authz.observability.multiprocess import directory

_INITIAL_BYTES = 65_536
_ENTRY_BYTES = 64
"""Of one value, besides its key; more than it takes."""

logger = logging.getLogger(__name__)


class MetricFile(MmapedDict):
    """Its space is taken before it is used: to write through a mapping where the disk is full is a SIGBUS, which would
    end the process. Without space the values stay in memory: checks go on, and /metrics shows no change of them."""

    def __init__(self, filename: str) -> None:
        try:
            _reserve(Path(filename), _INITIAL_BYTES)
        except OSError as failure:
            logger.error("metrics of this process are not shown", extra={"error": failure.strerror})  # noqa: TRY400 - no traceback
            filename = f"/proc/self/fd/{os.memfd_create('metrics')}"
        super().__init__(filename)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + 4 * len(key) + _ENTRY_BYTES > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        try:
            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
        except OSError as failure:
            logger.error("metrics of this process stay as they are", extra={"error": failure.strerror})  # noqa: TRY400 - no traceback
            self._f = os.fdopen(os.memfd_create("metrics"), "r+b")
            self._f.write(self._m[:])
            self._f.flush()


def forget(pid: int) -> None:
    """A process is dead: drop what it said about itself (its gauges), and add what it counted to what all dead ones
    counted, in one file for each kind of metric. Without space for that its own file stays. Not while somebody
    collects."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    for kind in ("counter", "histogram"):
        file, dead = directory() / f"{kind}_{pid}.db", directory() / f"{kind}_dead.db"
        if not file.exists():
            continue
        try:
            _reserve(dead, _used(dead) + _used(file))
        except OSError as failure:
            logger.error("metrics of a dead process are not merged", extra={"error": failure.strerror})  # noqa: TRY400 - no traceback
            continue
        total = MmapedDict(str(dead))  # type: ignore[no-untyped-call]
        for key, counted, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            total.write_value(key, total.read_value(key)[0] + counted, 0.0)  # type: ignore[no-untyped-call]
        total.close()  # type: ignore[no-untyped-call]
        file.unlink()


def _reserve(file: Path, size: int) -> None:
    """A new file is never seen empty: /metrics could not read it."""
    new = file if file.exists() else file.with_suffix(".new")
    try:
        with new.open("ab") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
        new.rename(file)
    except OSError:
        file.with_suffix(".new").unlink(missing_ok=True)
        raise


def _used(file: Path) -> int:
    """Bytes, as its first four say."""
    if not file.exists():
        return _INITIAL_BYTES
    with file.open("rb") as opened:
        return int.from_bytes(opened.read(4), sys.byteorder)
