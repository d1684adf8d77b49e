"""A replay over Parquet files of `tollgate ledger export`: DuckDB finds the calls that are equal, and sorts the others.

What it works with is in a temporary directory, and at most `_MEMORY` of it in memory. All that is in the files are
values: no statement is made of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ext_authz.errors import ConfigError
from ext_authz.ledger import parquet
from ext_authz.policy.model import Policy
from ext_authz.policytool.comparison import Comparison
from ext_authz.policytool.grouped import (
    ALIKE,
    LIGHTWEIGHT,
    ORDINARY,
    Call,
    GroupedReplay,
    Known,
    by_token,
    group_of,
    moment,
)
from ext_authz.policytool.replay import TICK

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY = "1GB"
_PAGE = 10_000
"""Rows that are handed over at a time."""
_SOME = """CASE WHEN NOT {by_token} AND regexp_full_match({name}, '{ordinary}')
    AND NOT regexp_full_match({name}, '{lightweight}') THEN 'some' ELSE {name} END"""
_CALLS = """
CREATE VIEW calls AS
SELECT epoch_us(occurred_at) AS at_us, decision_id, token_id, session, issued_at, expires_at,
    at_us - issued_at * 1000000 AS age, expires_at - issued_at AS lifetime, {token} AS token, {session} AS of_session,
    issuer, subject, client, route, model, model_version, method, path, reason, code, policy,
    coalesce(record, '') AS record
FROM files WHERE at_us >= {since} AND at_us < {until}
"""
_GROUPS = f"""
CREATE TABLE groups AS SELECT row_number() OVER () - 1 AS id, * FROM (
    SELECT {", ".join(ALIKE)}, count(*) AS calls, min(at_us) AS first, max(at_us) AS last, min(age) AS youngest,
        arg_min(issued_at, age) AS issued_to_youngest, max(age) AS oldest, arg_max(issued_at, age) AS issued_to_oldest
    FROM calls GROUP BY ALL
)
"""  # noqa: S608 - constants
_ORDERED = f"""
CREATE TABLE ordered AS SELECT chosen.id, {", ".join(f"calls.{name}" for name in Call.__struct_fields__)}
FROM calls JOIN (SELECT groups.* FROM groups JOIN counted USING (id)) AS chosen USING ({", ".join(ALIKE)})
ORDER BY calls.at_us, calls.decision_id
"""  # noqa: S608 - constants
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


class ParquetLedger:
    """The decisions of a directory, in a period."""

    def __init__(self, database: DuckDBPyConnection, since: datetime, until: datetime, rows: int) -> None:
        self._database = database
        self._period = {"since": _microseconds(since), "until": _microseconds(until)}
        self._rows = rows

    def __len__(self) -> int:
        """Decisions in the directory, at least as many as in the period."""
        return self._rows

    async def compare(self, old: Policy, new: Policy, tick: Callable[[int], object]) -> Comparison:
        """As `replay.compare` of the same decisions.

        Raises:
            ConfigError: the files cannot be read after all.
        """
        replay, counted = GroupedReplay(old, new), dict[int, Known]()
        if not self._rows:
            return replay.found
        self._define(is_by_token=by_token(old, new))
        for row in self._rows_of("groups", _GROUPS):
            known = await replay.known(group_of(row))
            replay.see(moment(row["first"]), moment(row["last"]), row["calls"])
            if replay.settle(known, row["calls"]):
                tick(row["calls"])
            else:
                counted[row["id"]] = known
        self._choose(counted)
        for number, row in enumerate(self._rows_of("ordered", _ORDERED), 1):
            await replay.count(counted[row.pop("id")], Call(**row))
            if number % TICK == 0:
                tick(TICK)
        return replay.found

    def _define(self, *, is_by_token: bool) -> None:
        words = {"by_token": str(is_by_token).lower(), "ordinary": ORDINARY, "lightweight": LIGHTWEIGHT}
        names = {"token": _SOME.format(name="token_id", **words), "session": _SOME.format(name="session", **words)}
        self._execute(_CALLS.format(**names, **self._period))
        self._execute("CREATE TABLE counted (id BIGINT)")

    def _choose(self, counted: dict[int, Known]) -> None:
        numbers = list(counted)
        for start in range(0, len(numbers), _PAGE):
            self._execute("INSERT INTO counted SELECT unnest(?::BIGINT[])", [numbers[start : start + _PAGE]])

    def _rows_of(self, table: str, create: str) -> Iterator[dict[str, Any]]:
        """By name, in pages of a table: neither side holds the whole result."""
        self._execute(create)
        ((last,),) = self._execute(f"SELECT coalesce(max(rowid), -1) FROM {table}")  # noqa: S608 - a constant
        page = f"SELECT * FROM {table} WHERE rowid >= ? AND rowid < ? ORDER BY rowid"  # noqa: S608 - as above
        for start in range(0, last + 1, _PAGE):
            rows = self._execute(page, [start, start + _PAGE])
            names = [column[0] for column in self._database.description or ()]
            yield from (dict(zip(names, row, strict=True)) for row in rows)

    def _execute(self, statement: str, values: list[object] | None = None) -> list[Any]:
        import duckdb

        try:
            return self._database.execute(statement, values).fetchall()
        except duckdb.Error as failure:
            what = str(failure).splitlines()[0][:200]
            raise ConfigError(f"--replay: the Parquet files cannot be replayed: {what}") from None


@contextmanager
def opened(directory: Path, since: datetime | None, until: datetime | None) -> Generator[ParquetLedger]:
    """A directory that `tollgate ledger export` completed, with room to work beside it for as long as this lasts.

    Raises:
        ConfigError: it is not as it was written, or its files are not Parquet that we know.
    """
    duckdb = parquet.library("duckdb")
    manifest = parquet.read(directory)
    with tempfile.TemporaryDirectory(prefix="tollgate-replay-") as place:
        settings = {"memory_limit": _MEMORY, "temp_directory": f"{place}/spilled"}
        offline = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        with duckdb.connect(f"{place}/replay.duckdb", config=settings | offline) as database:
            _attach(database, directory, manifest, Path(place))
            yield ParquetLedger(database, since or _FIRST, until or _LAST, manifest.rows)


def _attach(database: DuckDBPyConnection, directory: Path, manifest: parquet.Manifest, place: Path) -> None:
    """The view `files`. DuckDB takes a path for a pattern, and `a=b` in it for a column: ours is plain."""
    if not manifest.files:
        return
    plain = place / "files"
    plain.symlink_to(directory.resolve(), target_is_directory=True)
    names = [str(path) for path in parquet.paths(plain, manifest)]
    database.read_parquet(names, hive_partitioning=False, union_by_name=True).create_view("files")


def _microseconds(at: datetime) -> int:
    return (at - _FIRST) // timedelta(microseconds=1)
