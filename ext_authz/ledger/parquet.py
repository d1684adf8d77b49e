"""The ledger of a period as Parquet files in a directory (extra `parquet`): what bills count, and what a replay needs.

The manifest comes last: without it, or where a file is
not as it says, nobody reads the directory.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from stat import S_ISREG
from types import ModuleType
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct, structs

from ext_authz.errors import ConfigError
from ext_authz.ledger.event import DecisionRecord, StoredEvent, decode_record, encode

FORMAT = "tollgate.decisions.v1"
"""Columns may be added to it; one that changes its meaning makes a new format."""
MANIFEST = "manifest.json"
COLUMNS: Mapping[str, str] = {
    "decision_id": "string",
    "occurred_at": "timestamp[us, tz=UTC]",
    **dict.fromkeys(("issuer", "subject", "client", "token_id", "route", "model", "model_version"), "string"),
    **dict.fromkeys(("method", "path", "reason", "code", "degraded", "policy", "outcome"), "string"),
    "billed": "bool",
    **dict.fromkeys(("requests", "units", "bytes_in", "bytes_out"), "int64"),
    "seconds": "decimal128(18, 6)",
    "record": "string",
    "session": "string",
    "issued_at": "int64",
    "expires_at": "double",
}
"""With their types, as Arrow names them. Only `record` may be null."""
BILLABLE = ("outcome", "billed", "requests", "units", "bytes_in", "bytes_out", "seconds")
REPLAYED = tuple(name for name in COLUMNS if name not in (*BILLABLE, "degraded"))
"""The columns that a replay reads."""
_OF_TOKEN = ("session", "issued_at", "expires_at")
_NOT_REPLAYED = ("address", "operation", "actor", "issuer_name", "plan", "variant", "limits", "limited_by")
_LEFT_OUT = {name: getattr(DecisionRecord(), name) for name in (*_OF_TOKEN, *_NOT_REPLAYED)}
"""Of the column `record`: what has a column of its own, and what no replay reads."""
NAME = re.compile(r"decisions-[0-9]{6,9}\.parquet")
_MOST_MANIFEST = 100_000_000
_BLOCK = 1 << 20


class File(Struct, frozen=True):
    """One of the directory."""

    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(Struct, frozen=True):
    """What the directory holds."""

    format: str
    since: datetime
    until: datetime
    rows: int
    files: list[File]


def library(name: str) -> ModuleType:
    """Of the extra. Raises ConfigError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        hint = "pip install 'tollgate[parquet]'"
        raise ConfigError(f"Parquet needs the package {package}, which is not here: {hint}") from None


def schema() -> Any:  # noqa: ANN401 - Arrow's
    """Of every file."""
    arrow = library("pyarrow")
    others = {"timestamp[us, tz=UTC]": arrow.timestamp("us", "UTC"), "decimal128(18, 6)": arrow.decimal128(18, 6)}
    return arrow.schema(
        [
            arrow.field(name, others.get(kind) or arrow.type_for_alias(kind), nullable=name == "record")
            for name, kind in COLUMNS.items()
        ]
    )


def split(facts: str | None) -> tuple[str | None, str, int, float]:
    """The columns `record`, `session`, `issued_at` and `expires_at` of a decision record in JSON."""
    record = decode_record(facts)
    if record is None:
        return None, "", 0, 0.0
    kept = encode(structs.replace(record, **_LEFT_OUT)).decode()
    return kept, record.session, record.issued_at, float(record.expires_at)


def joined(row: Mapping[str, Any]) -> StoredEvent:
    """From the columns that a replay reads, by name."""
    record, token = decode_record(row["record"]), {name: row[name] for name in _OF_TOKEN}
    whole = structs.replace(record, **token) if record else None
    names = [name for name in REPLAYED if name not in ("record", *_OF_TOKEN)]
    return StoredEvent(**{name: row[name] for name in names}, record=whole)


def described(path: Path, rows: int) -> File:
    """As it is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(path.name, rows, file.tell(), digest)


def read(directory: Path) -> Manifest:
    """What a directory holds, after every file was compared with it.

    Raises:
        ConfigError: names the first thing that is not as `tollgate ledger export` left it.
    """
    manifest = _manifest(directory / MANIFEST)
    known = {file.name: file for file in manifest.files}
    if sum(file.rows for file in manifest.files) != manifest.rows:
        raise ConfigError(f"{directory / MANIFEST}: its rows are not those of its files: export again")
    found = {path.name for path in directory.iterdir()} - {MANIFEST}
    if foreign := sorted(found - known.keys()):
        raise ConfigError(f"{directory / foreign[0]}: is not in {MANIFEST}: remove it, or export again")
    for file in manifest.files:
        _ensure_as_written(directory / file.name, file)
    return manifest


def _manifest(path: Path) -> Manifest:
    try:
        _ensure_file(path)
        if path.stat().st_size > _MOST_MANIFEST:
            raise ConfigError(f"{path}: is too long for a manifest")
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if (kind := found.get("format")) != FORMAT:
            raise ConfigError(
                f"{path}: the format is {str(kind)[:60]!r}, and this version reads {FORMAT}: export again"
            )
        manifest = msgspec.convert(found, Manifest)
    except FileNotFoundError:
        raise ConfigError(f"{path}: is not there: name a directory that tollgate ledger export has completed") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"{path}: is no manifest of tollgate ledger export: {wrong}") from None
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise ConfigError(f"{path}: names a file twice, which tollgate ledger export does not write")
    if wrong_names := [file.name for file in manifest.files if not NAME.fullmatch(file.name)]:
        raise ConfigError(f"{path}: names {wrong_names[0][:60]!r}, which tollgate ledger export does not write")
    return manifest


def _ensure_file(path: Path) -> None:
    """A link could lead out of the directory, and a pipe would never end."""
    if not S_ISREG(path.lstat().st_mode):
        raise ConfigError(f"{path}: is no regular file: copy it into the directory in place of a link")


def _ensure_as_written(path: Path, file: File) -> None:
    try:
        _ensure_file(path)
        if path.stat().st_size != file.bytes or described(path, file.rows) != file:
            raise ConfigError(f"{path}: is not as it was written, by its SHA-256: copy it again, or export again")
    except FileNotFoundError:
        raise ConfigError(f"{path}: is missing: copy it again, or export again") from None
    if wrong := _unreadable(path, file.rows):
        raise ConfigError(f"{path}: {wrong}: export again with this version")


def _unreadable(path: Path, rows: int) -> str:
    """What a replay could not read of it; empty where it can."""
    pyarrow, library_of_files = library("pyarrow"), library("pyarrow.parquet")
    try:
        metadata = library_of_files.read_metadata(path)
        found = {field.name: (str(field.type), field.nullable) for field in metadata.schema.to_arrow_schema()}
    except (pyarrow.ArrowException, OSError) as wrong:
        return f"is no Parquet: {str(wrong).splitlines()[0][:120]}"
    if metadata.num_rows != rows:
        return f"has {metadata.num_rows} rows, and {rows} by {MANIFEST}"
    for name in REPLAYED:
        if name not in found:
            return f"has no column {name}"
        kind, nullable = found[name]
        if kind != COLUMNS[name]:
            return f"the column {name} is {kind}, and not {COLUMNS[name]}"
        if nullable and name != "record":
            return f"the column {name} may be null"
    return ""


def paths(directory: Path, manifest: Manifest) -> Iterator[Path]:
    """Of all files."""
    return (directory / file.name for file in manifest.files)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Atomically."""
    replace_into(directory / MANIFEST, msgspec.json.format(encode(manifest), indent=2) + b"\n")


def replace_into(path: Path, content: bytes) -> None:
    """Written aside and renamed, readable to its owner alone."""
    with private(path) as file:
        file.write(content)
    settle(path)


def aside(path: Path) -> Path:
    """Where a file is written until it is complete."""
    return path.with_name(f".{path.name}.part")


def private(path: Path) -> BinaryIO:
    """`aside(path)`, new, for its owner alone: subjects are personal data."""
    return os.fdopen(os.open(aside(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def settle(path: Path) -> None:
    """On disk first, then under its name."""
    with aside(path).open("rb") as file:
        os.fsync(file.fileno())
    aside(path).rename(path)
