"""The prediction log of a model process: one JSON line per row that it answered, in files that the usage worker takes.

Where TOLLGATE_PREDICTIONS names a directory, `keep` puts what was answered into a bounded queue, and one thread writes
it. No request waits for it, or fails by it: what is too much, or cannot be written, is dropped and counted as
`tollgate_predictions_dropped_total` at Triton's metrics port.

A file is `TIME@MODEL@PROCESS.open` while this process writes it, under a lock that the kernel gives up when the process
is gone, and `TIME@MODEL@PROCESS@ROWS.jsonl` once it is finished: after 1 MB, or 1 s. The system has each line 0.1 s
after the answer; files are not synced to the disk.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import quote

import numpy as np
import triton_python_backend_utils as triton

from tollgate_models.labels import keep_for_ever
from tollgate_models.prediction_lines import Call, Origin, inputs_of, lines

logger = logging.getLogger(__name__)

DIRECTORY, VARIANT = "TOLLGATE_PREDICTIONS", "TOLLGATE_VARIANT"
"""Variables of Triton's environment: where the files are made, and the variant that this instance serves."""
MOST_WAITING = 32 << 20
"""Bytes that wait for the thread, roughly."""
MOST_ON_DISK, MOST_FILES = 1 << 30, 20_000
"""Of finished files: if nobody takes them, the oldest are dropped."""
FILE_BYTES, FILE_SECONDS = 1_000_000, 1.0
PAUSE = 0.1
"""Seconds in which lines are gathered for one write."""
_LOOK = 10.0
"""Seconds between two looks at how much is on the disk."""


def keep(
    model: str,
    version: str,
    answered: Sequence[tuple[Any, Mapping[str, str], int]],
    columns: Mapping[str, np.ndarray],
    milliseconds: float,
) -> None:
    """Never raises. `answered`: each request with the headers that were forwarded and its number of rows; `columns`:
    the outputs of all rows, in the same order."""
    try:
        if log := _log_of(model, version):
            log.add(answered, columns, milliseconds)
    except Exception:
        logger.exception("predictions of %s are not logged", model)


@cache
def _log_of(model: str, version: str) -> PredictionLog | None:
    """A process of Triton serves one version of one model. It closes the log when the interpreter ends."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return None
    log = PredictionLog(model, version, Path(directory), os.environ.get(VARIANT, ""))
    atexit.register(log.close)
    return log


class PredictionLog:
    """Of one process."""

    def __init__(self, model: str, version: str, directory: Path, variant: str) -> None:
        labels = {"model": model, "version": version}
        self._origin = Origin(model, version, socket.gethostname(), variant)
        self._files = _Files(directory, model)
        help_text = "Rows that a model answered and that are missing in the prediction log."
        self._family = triton.MetricFamily(
            name="tollgate_predictions_dropped_total", description=help_text, kind=triton.MetricFamily.COUNTER
        )
        self._dropped = self._family.Metric(labels=labels)
        keep_for_ever(self)
        self._lock, self._closing, self._added = Lock(), Event(), Event()
        self._calls: list[Call] = []
        self._waiting = self._lost = 0
        self._silent_until = 0.0
        self._thread = Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def add(
        self,
        answered: Sequence[tuple[Any, Mapping[str, str], int]],
        columns: Mapping[str, np.ndarray],
        milliseconds: float,
    ) -> None:
        """Takes copies: what Triton lends is gone once the requests are answered."""
        at, start = time.time(), 0
        for request, headers, rows in answered:
            outputs = {name: column[start : start + rows] for name, column in columns.items()}
            try:
                self._enqueue(Call(at, headers, inputs_of(request, rows), outputs, rows, milliseconds))
            except Exception as failure:  # noqa: BLE001 - it is logged
                self._complain("a call cannot be written down", failure)
                self._lose(rows)
            start += rows
        if self._lost:
            self._count()

    def close(self) -> None:
        """Write what waits, and finish the file. What comes later is dropped."""
        self._closing.set()
        self._added.set()
        self._thread.join(timeout=5)

    def _enqueue(self, call: Call) -> None:
        weight = call.weight
        with self._lock:
            if self._closing.is_set() or self._waiting + weight > MOST_WAITING:
                self._lost += call.rows
                return
            self._calls.append(call)
            self._waiting += weight
        self._added.set()

    def _lose(self, rows: int) -> None:
        with self._lock:
            self._lost += rows

    def _complain(self, sentence: str, failure: Exception) -> None:
        """With the traceback, but not for every call."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _LOOK
            logger.error("predictions of %s: %s", self._origin.model, sentence, exc_info=failure)

    def _count(self) -> None:
        """Here and not in the thread: Triton's metrics are for the thread that answers."""
        with self._lock:
            lost, self._lost = self._lost, 0
        self._dropped.increment(lost)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._added.wait(None if self._files.is_idle else FILE_SECONDS)
            self._closing.wait(PAUSE)
            self._turn()
        self._turn(last=True)

    def _turn(self, *, last: bool = False) -> None:
        with self._lock:
            calls, self._calls, self._waiting = self._calls, [], 0
            self._added.clear()
        lost = 0
        for call in calls:
            lost += self._write(call)
        try:
            lost += self._files.finish_if_due(at_once=last)
        except OSError as failure:
            self._complain("a file is not finished", failure)
        self._lose(lost)

    def _write(self, call: Call) -> int:
        """How many rows are lost. Never raises: nobody would write the next ones."""
        try:
            self._files.write(b"".join(lines(self._origin, call)), call.rows)
        except Exception as failure:  # noqa: BLE001 - it is logged
            self._complain("a call is not written", failure)
            return call.rows
        return 0


class _Files:
    """The file that is written now, and how much is on the disk."""

    def __init__(self, directory: Path, model: str) -> None:
        self._directory = directory
        self._model = quote(model, safe="")
        self._descriptor: int | None = None
        self._path = directory
        self._began = self._looked = 0.0
        self._bytes = self._rows = 0

    @property
    def is_idle(self) -> bool:
        return self._descriptor is None

    def write(self, text: bytes, rows: int) -> None:
        """Raises OSError."""
        descriptor, view = self._open() if self._descriptor is None else self._descriptor, memoryview(text)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            self._finish(descriptor)  # nothing comes after half a line
            raise
        self._bytes += len(text)
        self._rows += rows
        if self._bytes >= FILE_BYTES:
            self._finish(descriptor)

    def finish_if_due(self, *, at_once: bool) -> int:
        """How many rows were dropped from the disk. Raises OSError."""
        now = time.monotonic()
        if self._descriptor is not None and (at_once or now - self._began >= FILE_SECONDS):
            self._finish(self._descriptor)
        if now - self._looked < _LOOK:
            return 0
        self._looked = now
        return _drop_oldest(self._directory)

    def _open(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._path = self._directory / f"{time.time_ns():020d}@{self._model}@{own}.open"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor, self._began, self._bytes, self._rows = descriptor, time.monotonic(), 0, 0
        return descriptor

    def _finish(self, descriptor: int) -> None:
        self._descriptor = None
        try:
            self._path.rename(self._path.with_name(f"{self._path.stem}@{self._rows}.jsonl"))
        finally:
            os.close(descriptor)  # and the lock: the usage worker takes the file as it is


def _drop_oldest(directory: Path) -> int:
    """How many rows were in what is dropped."""
    files = sorted(directory.glob("*.jsonl"))
    sizes = [_stored(file) for file in files]
    excess, dropped = sum(sizes) - MOST_ON_DISK, 0
    for position, (file, size) in enumerate(zip(files, sizes, strict=True)):
        if excess <= 0 and len(files) - position <= MOST_FILES:
            break
        excess -= size
        with suppress(FileNotFoundError):  # it was taken, or another process drops the oldest, too, and counts it
            file.unlink()
            rows = file.stem.rpartition("@")[2]
            dropped += int(rows) if rows.isdigit() else 0
    return dropped


def _stored(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # the usage worker was faster
        return 0
