"""A directory as `tollgate ledger export` leaves it, made of lines of `tollgate usage export`, without Postgres."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from ext_authz.ledger.export import BATCH, Files
from ext_authz.ledger.parquet import BILLABLE, COLUMNS, FORMAT, Manifest, write_manifest

_START, _END = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)
_SERVED = dict(zip(BILLABLE, ("served", True, 1, 1, 120, 300, Decimal("0.01")), strict=True))


def exported(events: Iterable[dict[str, Any]], directory: Path, batch: int = BATCH) -> Path:
    """As one file, in row groups of `batch`."""
    directory.mkdir(exist_ok=True)
    files, rows, count = Files(directory), map(row, events), 0
    while some := list(islice(rows, batch)):
        files.write(some)
        count += len(some)
    write_manifest(directory, Manifest(FORMAT, _START, _END, count, files.close()))
    return directory


def row(event: dict[str, Any]) -> list[object]:
    """As Postgres gives it."""
    found = event | _SERVED | {"occurred_at": datetime.fromisoformat(event["occurred_at"])}
    names = [name for name in COLUMNS if name not in ("record", "session", "issued_at", "expires_at")]
    return [*(found[name] for name in names), json.dumps(event["facts"]) if event["facts"] else None]


def events_of(path: Path) -> Iterator[dict[str, Any]]:
    """Of a file of `tollgate usage export`."""
    with path.open() as lines:
        yield from map(json.loads, lines)
