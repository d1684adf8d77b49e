"""The files that models write (`model_servers/tollgate_models/predictions.py`), and what a line in them says.

Who can write into the directory can write anything: what is not such a line is broken, and never read as another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Annotated
from urllib.parse import unquote
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from ext_authz.policy.rights import Predictions

MOST_OF_FILE = 64 << 20
"""Bytes; models write 1 MB."""
MOST_OF_LINE = 256 << 10
ABANDONED = 5.0
"""Seconds without a write after which an open file is looked at: its process may be gone."""
_EARLY = 60.0
"""Seconds that the clock of a model may be ahead of ours."""
_NAME = re.compile(
    r"[0-9]{20}@(?P<model>[A-Za-z0-9_.%~-]{1,400})@[0-9a-f-]{1,40}@(?P<rows>[0-9]{1,9})\.jsonl", re.ASCII
)

_Text = Annotated[str, Meta(max_length=255)]
_Number = Annotated[float, Meta(ge=0, le=1e15)]


class Line(Struct, frozen=True):
    """One row that a model answered."""

    id: UUID
    decision_id: UUID
    row: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    at: _Number
    """Unix time; the id begins with it."""
    model: _Text
    version: _Text
    variant: _Text
    mirrored: bool
    inputs: Raw
    """A JSON object, or null."""
    outputs: Raw
    milliseconds: _Number
    bytes: Annotated[int, Meta(ge=0, le=2**53)]
    host: _Text

    @property
    def when(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)


class Finished(Struct, frozen=True):
    """A file that no model writes any more."""

    path: Path
    model: str
    rows: int
    """As its name says."""


_decode = msgspec.json.Decoder(Line).decode


def finished(directory: Path) -> list[Finished]:
    """The oldest first; other files are left alone."""
    found = [(path, _NAME.fullmatch(path.name)) for path in sorted(directory.glob("*.jsonl"))]
    return [Finished(path, unquote(name["model"]), int(name["rows"])) for path, name in found if name]


def finish_abandoned(directory: Path) -> None:
    """A process that was killed leaves its file open, and the kernel has given up its lock."""
    for path in directory.glob("*.open"):
        with suppress(OSError):
            if time() - path.stat().st_mtime >= ABANDONED:
                _finish(path)


def _finish(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rows = path.read_bytes().count(b"\n")
        path.rename(path.with_name(f"{path.stem}@{rows}.jsonl"))
    finally:
        os.close(descriptor)


def lines_of(file: Finished) -> Iterator[Line | None]:
    """None: the line is broken. Raises FileNotFoundError: somebody else has taken the file."""
    if file.path.stat().st_size > MOST_OF_FILE:
        yield from [None] * file.rows
        return
    for text in file.path.read_bytes().splitlines():
        yield _line(text, file.model)


def _line(text: bytes, model: str) -> Line | None:
    try:
        line = _decode(text) if len(text) <= MOST_OF_LINE else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if line is None or line.model != model or not line.at <= time() + _EARLY:
        return None
    if not {bytes(line.inputs)[:1], bytes(line.outputs)[:1]} <= {b"{", b"n"}:
        return None
    return line if line.id.int >> 80 == int(line.at * 1000) else None


def kept_inputs(line: Line, kept: Predictions, key: bytes) -> tuple[str | None, bytes | None]:
    """The inputs and their hash, as far as the policy keeps them.

    The hash is of the inputs in canonical JSON, and of the model's name: equal inputs of two models are not known as
    equal.
    """
    if kept.inputs == "none" or bytes(line.inputs) == b"null":
        return None, None
    if kept.inputs == "full":
        return bytes(line.inputs).decode(), None
    canonical = msgspec.json.encode(msgspec.json.decode(line.inputs), order="deterministic")
    return None, hmac.digest(key, line.model.encode() + b"\0" + canonical, hashlib.sha256)
