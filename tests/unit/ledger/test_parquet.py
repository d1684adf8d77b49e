"""Directories of `tollgate ledger export`: what is not as it was written is refused, with one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from msgspec.structs import replace
from pyarrow import parquet as pq

from ext_authz.errors import ConfigError
from ext_authz.ledger import parquet
from ext_authz.ledger.parquet import COLUMNS, MANIFEST, REPLAYED, joined, read, split
from tests.parquet import exported
from tests.properties.test_replay import event

FILE = "decisions-000000.parquet"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return exported([event(number) for number in range(5)], tmp_path / "ledger", batch=2)


def test_it_has_what_was_recorded(directory: Path) -> None:
    manifest = read(directory)
    assert [(file.name, file.rows) for file in manifest.files] == [(FILE, 5)]
    found = pq.ParquetFile(directory / FILE)
    assert {field.name: str(field.type) for field in found.schema_arrow} == COLUMNS
    assert found.metadata.num_row_groups == 3
    assert sorted(path.name for path in directory.iterdir()) == [FILE, MANIFEST]
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    row = found.read().to_pylist()[1]
    assert row["seconds"].as_tuple().exponent == -6
    event_read = joined({name: row[name] for name in REPLAYED})
    assert event_read.record
    assert (event_read.record.roles, event_read.record.expires_at) == (("infer",), 1_800_000_300)


def test_a_record_keeps_what_a_replay_reads_and_no_more() -> None:
    facts = {"host": "h", "roles": ["a"], "session": "s", "issued_at": 5, "expires_at": 9.5, "plan": "gold"}
    record, *token = split(json.dumps({**facts, "limits": ["user\u001falice"], "address": "10.0.0.9"}))
    assert json.loads(record or "") == {"host": "h", "roles": ["a"]}
    assert token == ["s", 5, 9.5]
    assert split(None) == split("no record") == (None, "", 0, 0.0)


def rewritten(directory: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another file, with a manifest that says so."""
    pq.write_table(change(pq.read_table(directory / FILE)), directory / FILE)
    manifest = parquet._manifest(directory / MANIFEST)
    (directory / MANIFEST).unlink()
    files = [parquet.described(directory / FILE, 5)]
    parquet.write_manifest(directory, replace(manifest, files=files))


def said(directory: Path, **fields: object) -> None:
    """A manifest with other fields."""
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | fields))


def described(directory: Path, content: bytes) -> None:
    """Something else in place of the file, of which the manifest knows."""
    (directory / FILE).write_bytes(content)
    found = parquet.described(directory / FILE, 5)
    said(directory, files=[{"name": FILE, "rows": 5, "bytes": found.bytes, "sha256": found.sha256}])


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(
        table.schema.get_field_index(name), pa.field(name, kind, nullable=False), table[name].cast(kind)
    )


def nullable(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))  # noqa: FBT003 - Arrow's


def cut(path: Path) -> None:
    """It keeps its size and its end, as after a disk error."""
    content = bytearray(path.read_bytes())
    content[8:200] = bytes(192)
    path.write_bytes(content)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "not completed": (lambda at: (at / MANIFEST).unlink(), "is not there: name a directory that tollgate ledger"),
    "a foreign file": (lambda at: (at / "other.parquet").touch(), "other.parquet: is not in manifest.json"),
    "a file is missing": (lambda at: (at / FILE).unlink(), "is missing: copy it again"),
    "truncated": (lambda at: os.truncate(at / FILE, 900), "is not as it was written"),
    "damaged": (lambda at: cut(at / FILE), "is not as it was written"),
    "a link": (lambda at: linked(at / FILE), "is no regular file"),
    "a manifest that is a link": (lambda at: linked(at / MANIFEST), "is no regular file"),
    "a pipe": (lambda at: piped(at / FILE), "is no regular file"),
    "another format": (lambda at: said(at, format="tollgate.decisions.v9"), "is 'tollgate.decisions.v9', and this"),
    "no format": (lambda at: said(at, format=None), "the format is 'None', and this version reads"),
    "no manifest": (lambda at: (at / MANIFEST).write_text("[1]"), "is no manifest of tollgate ledger export"),
    "no JSON": (lambda at: (at / MANIFEST).write_bytes(b"\xff{"), "is no manifest of tollgate ledger export"),
    "a wrong manifest": (lambda at: said(at, rows="many"), "is no manifest of tollgate ledger export: Expected `int`"),
    "a path in the manifest": (
        lambda at: said(at, files=[{"name": "../../etc/passwd", "rows": 1, "bytes": 1, "sha256": ""}]),
        "names '../../etc/passwd', which tollgate ledger export does not write",
    ),
    "a file twice": (
        lambda at: said(at, files=2 * json.loads((at / MANIFEST).read_text())["files"]),
        "names a file twice",
    ),
    "other rows in all": (lambda at: said(at, rows=0), "its rows are not those of its files"),
    "other rows": (lambda at: rewritten(at, lambda table: table.slice(1)), "has 4 rows, and 5 by manifest.json"),
    "no Parquet": (
        lambda at: described(at, b"a,b"),
        "is no Parquet: ",
    ),
    "a column is missing": (
        lambda at: rewritten(at, lambda table: table.drop_columns(["path"])),
        "has no column path: export again",
    ),
    "a column of another type": (
        lambda at: rewritten(at, cast("issued_at", pa.string())),
        "the column issued_at is string, and not int64",
    ),
    "nulls": (lambda at: rewritten(at, nullable), "the column decision_id may be null"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_as_it_was_written_is_refused(name: str, directory: Path) -> None:
    spoil, sentence = WRONG[name]
    spoil(directory)
    with pytest.raises(ConfigError) as refused:
        read(directory)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_with_more_columns_is_read(directory: Path) -> None:
    rewritten(directory, lambda table: table.append_column("later", pa.array([1] * 5)))
    assert read(directory).rows == 5


def test_the_packages_are_named_where_they_are_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"needs the package nowhere, which is not here: pip install 'tollgate\["):
        parquet.library("nowhere.at_all")
