"""`tollgate ledger export`: the decisions of a period, out of Postgres into Parquet files.

One transaction that only reads, so that all files show the ledger at one time; a cursor of Postgres, so that neither
side holds more than one batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString

from psycopg import IsolationLevel
from pydantic import SecretStr

from ext_authz.db import tables
from ext_authz.db.postgres import Connection
from ext_authz.errors import ConfigError
from ext_authz.ledger import parquet
from ext_authz.ledger.parquet import COLUMNS, File, Manifest

READS = {"usage_events": ("SELECT",), "call_outcomes": ("SELECT",)}
BATCH = 20_000
"""Rows that are in memory at a time, and of a row group."""
FILE_ROWS = 1_000_000
"""After which another file begins."""
# The columns of parquet.COLUMNS in their order, the last four of them as `facts`.
_ROWS: LiteralString = """
SELECT decision_id::text, occurred_at, issuer, subject, client, token_id, route, model, model_version, method, path,
    reason, code, degraded, policy, outcome, billed, requests, counts.units, counts.bytes_in, counts.bytes_out, seconds,
    facts::text
FROM usage_events AS event LEFT JOIN call_outcomes AS call USING (decision_id)
CROSS JOIN LATERAL usage_counts(
    reason, path, call.status, call.grpc_status, call.flags, call.upstream_ms,
    call.duration_ms, call.units, call.bytes_in, call.bytes_out
) AS counts
WHERE occurred_at >= %s AND occurred_at < %s
"""

Batch = Sequence[Sequence[Any]]


async def export(url: SecretStr, since: datetime, until: datetime, directory: Path) -> Manifest:
    """Fill an empty directory, or a new one.

    Raises:
        ConfigError: the directory cannot be used.
        Unavailable: "postgres".
    """
    parquet.library("pyarrow")
    _ensure_empty(directory)
    files = Files(directory)
    with ExitStack() as failed:
        failed.callback(files.discard)
        try:
            await _fill(files, url, since, until)
            written = files.close()
            manifest = Manifest(parquet.FORMAT, since, until, sum(file.rows for file in written), written)
            parquet.write_manifest(directory, manifest)
        except OSError as failure:
            raise ConfigError(f"--to: {directory} cannot be written: {failure.strerror or failure}") from None
        failed.pop_all()
    return manifest


async def _fill(files: Files, url: SecretStr, since: datetime, until: datetime) -> None:
    async with tables.connected(url, READS) as connection, aclosing(_batches(connection, since, until)) as batches:
        async for rows in batches:
            files.write(rows)


async def _batches(connection: Connection, since: datetime, until: datetime) -> AsyncGenerator[Batch]:
    """In one snapshot, by a transaction that cannot write."""
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    async with connection.transaction(), connection.cursor(name="decisions") as cursor:
        cursor.itersize = BATCH
        await cursor.execute(_ROWS, (since, until), binary=True)
        while rows := await cursor.fetchmany(BATCH):
            yield rows


def _ensure_empty(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = next(directory.iterdir(), None)
    except OSError as failure:
        raise ConfigError(f"--to: {directory} cannot be used: {failure.strerror or failure}") from None
    if held is not None:
        raise ConfigError(f"--to: {directory} is not empty, it has {held.name!r}: name a new or an empty directory")


class Files:
    """The files of one export, of which one is open at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._schema = parquet.schema()
        self._written: list[File] = []
        self._open: _OpenFile | None = None

    def write(self, rows: Batch) -> None:
        """One more row group. Raises OSError."""
        if self._open is None or self._open.rows >= FILE_ROWS:
            self._end()
            name = f"decisions-{len(self._written):06}.parquet"
            self._open = _OpenFile(self._directory / name, self._schema)
        self._open.write(_table(self._schema, rows), len(rows))

    def close(self) -> list[File]:
        """All that was written. Raises OSError."""
        self._end()
        return self._written

    def discard(self) -> None:
        """All of it, where the export failed."""
        if self._open is not None:
            self._open.discard()
        for file in self._written:
            (self._directory / file.name).unlink(missing_ok=True)

    def _end(self) -> None:
        if self._open is not None:
            self._written.append(self._open.close())
            self._open = None


class _OpenFile:
    def __init__(self, path: Path, schema: Any) -> None:  # noqa: ANN401 - Arrow's
        from pyarrow.parquet import ParquetWriter

        self.path, self.rows = path, 0
        self._out = parquet.private(path)
        self._writer = ParquetWriter(self._out, schema, compression="zstd")

    def write(self, table: Any, rows: int) -> None:  # noqa: ANN401 - Arrow's
        """As one row group."""
        self._writer.write_table(table, row_group_size=rows)
        self.rows += rows

    def close(self) -> File:
        self._writer.close()
        self._out.close()
        parquet.settle(self.path)
        return parquet.described(self.path, self.rows)

    def discard(self) -> None:
        with suppress(OSError):  # a full disk, of which we know
            self._out.close()
        for path in (parquet.aside(self.path), self.path):
            path.unlink(missing_ok=True)


def _table(schema: Any, rows: Batch) -> Any:  # noqa: ANN401 - Arrow's
    import pyarrow as pa

    *columns, facts = zip(*rows, strict=True)
    columns += zip(*map(parquet.split, facts), strict=True)
    return pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema)
