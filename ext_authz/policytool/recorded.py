"""Recorded decisions in the order of their time: from an export, one JSON object per line, or out of the ledger."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from ext_authz.db.tables import connected
from ext_authz.errors import ConfigError
from ext_authz.ledger.decisions import READS, RecordedDecision, iterate_decisions
from ext_authz.settings import load_store_settings

_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder(RecordedDecision).decode


class LedgerFile:
    """Lines of `tollgate usage export`. Read twice: what came out of order is put in order, a line at a time."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError, naming the line, where one is no decision."""
        self._path = path
        self._starts = [start for _, start in sorted(_times(path))]

    def __len__(self) -> int:
        return len(self._starts)

    async def decisions(self) -> AsyncIterator[RecordedDecision]:
        """In the order of time."""
        with self._path.open("rb") as file:
            for start in self._starts:
                if file.tell() != start:
                    file.seek(start)
                yield _decode(file.readline())


@asynccontextmanager
async def ledger_of_postgres(since: datetime, until: datetime) -> AsyncGenerator[LedgerFile]:
    """What the ledger holds of this period, for as long as the context lasts in a file of its own: rows have no order.

    Raises:
        Unavailable: "postgres".
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.jsonl"
        with path.open("wb") as file:
            await _export(since, until, file)
        yield LedgerFile(path)


async def _export(since: datetime, until: datetime, file: BinaryIO) -> None:
    async with (
        connected(load_store_settings().database_url, READS) as connection,
        aclosing(iterate_decisions(connection, since, until)) as batches,
    ):
        async for batch in batches:
            file.write(_encoder.encode_lines(batch))


def _times(path: Path) -> Iterator[tuple[float, int]]:
    """Of every line: when it was, and where it begins."""
    with path.open("rb") as file:
        for number, (start, line) in enumerate(_lines(file), 1):
            try:
                yield _decode(line).occurred_at.timestamp(), start
            except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
                raise ConfigError(f"{path}:{number}: this is no recorded decision: {wrong}") from None


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in file:
        if line.strip():
            yield start, line
        start += len(line)
