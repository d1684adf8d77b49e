"""A worker's copy of the table `owners`: what the identity provider says of callers, without a question per token.

It is read by pages at the start, then what was committed since, every `poll` seconds. While Postgres is away the copy
stays in use: what it says was true, and is no wider than what the tokens say. Rows are not deleted.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, LiteralString

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, first, pause
from ext_authz.db.positions import HISTORY, POSITION, Position
from ext_authz.db.postgres import Connection, Read
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import Unavailable
from ext_authz.identity.standing import Changed, Standing, decode_standing, owner_key
from ext_authz.observability.metrics import OWNERS_AGE, OWNERS_KNOWN
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)


NEEDS = {"owners": ("SELECT",)}
PAGE = 500
"""Rows of one query."""
MOST = 1_000_000
"""Owners that are held at most, some 500 MB; of others tokens get 503."""
_PATIENCE = 5.0
"""Seconds that a worker waits for the first reading: 100,000 owners take four."""
STALE = 60.0
"""Seconds without an answer of Postgres after which the report says so."""

ROW: LiteralString = """issuer, subject, json_build_array(
    kind = 'service', enabled, username, roles, groups, scopes, claims, coalesce(extract(epoch FROM signed_in_at), 0),
    current_roles, current_groups, coalesce(extract(epoch FROM checked_at), 0), ends)::text"""
"""Key, and the fields of a `Standing`."""
_PAGE: LiteralString = f"""
SELECT {ROW} FROM owners WHERE (issuer, subject) > (%(issuer)s, %(subject)s) ORDER BY issuer, subject LIMIT %(most)s
"""  # noqa: S608 - constants
# Two branches and an upper bound, as in revocation/feed.py.
_CHANGES: LiteralString = f"""
SELECT {HISTORY}, pg_current_snapshot()::text, changed.* FROM (SELECT) AS once LEFT JOIN (
    (SELECT {ROW} FROM owners WHERE xid = ANY(%(open)s::xid8[]) ORDER BY xid LIMIT %(most)s)
    UNION ALL
    (SELECT {ROW} FROM owners WHERE xid >= %(next)s::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())
     ORDER BY xid LIMIT %(most)s)
) AS changed ON true
"""  # noqa: S608 - constants

Row = tuple[str, str, str]


class KnownOwners:
    """Belongs to one worker. `find` costs two microseconds, and is asked only for tokens that are not cached."""

    def __init__(self, read: Read, clock: Clock, *, poll: float, most: int = MOST) -> None:
        """`poll`: seconds between two queries. `most`: owners that are held."""
        self._read = read
        self._clock = clock
        self._poll = poll
        self._most = most
        self._held: dict[str, bytes] = {}
        """A row as Postgres wrote it takes a third of the memory of one that is decoded."""
        self._position: Position | None = None
        self._read_at = -math.inf
        self._listeners: list[Callable[[Changed], None]] = []
        self._reading = asyncio.Lock()
        self._stop, self._tried = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble = OncePerCause(log, failing="owners: not read", working="owners: read again")
        self._cause = "not read yet"

    def listen(self, listener: Callable[[Changed], None]) -> None:
        """Call it with every change, after `find` has it."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Read the table, for a few seconds at most; what cannot be read by then is read later."""
        self._task = asyncio.create_task(self._run(), name="owners")
        await first(self._tried.wait(), seconds=_PATIENCE)

    async def stop(self) -> None:
        self._stop.set()
        if self._task:
            await self._task

    @property
    def _full(self) -> bool:
        return len(self._held) >= self._most

    @property
    def loaded(self) -> bool:
        return self._position is not None

    def cause(self) -> str:
        """Why tokens are refused, or are judged by what was known long ago; empty where neither is the case."""
        late = self._clock.monotonic() - self._read_at >= STALE
        if self.loaded and not late:
            return f"more than {self._most} owners: of others tokens are refused" if self._full else ""
        return self._cause

    def find(self, issuer: str, subject: str) -> Standing | None:
        """As `identity.standing.Owners.find`."""
        row = self._held.get(owner_key(issuer, subject))
        if row is not None:
            return decode_standing(row)
        if not self.loaded:
            raise Unavailable("postgres", f"the owners of tokens are not known: {self._cause}")
        if self._full:
            raise Unavailable("postgres", self.cause(), answers=True)
        return None

    async def seek(self, issuer: str, subject: str) -> Standing | None:
        """As `find`. One who is not known may have come just now: only who has a token that we signed gets here."""
        found = self.find(issuer, subject)
        if found is None:
            await self._attempt()
            found = self.find(issuer, subject)
        return found

    async def _run(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            await self._attempt()
            self._tried.set()
            OWNERS_AGE.set(self._clock.monotonic() - self._read_at)
            if self._cause:
                await backoff.pause()
            else:
                backoff.succeeded()
                await pause(self._stop, self._poll)

    async def _attempt(self) -> None:
        """Learn everything that was committed before, if Postgres answers."""
        async with self._reading:
            asked_at = self._clock.monotonic()
            try:
                await self._catch_up()
            except Unavailable as failure:
                self._cause = failure.detail or "no answer"
                self._trouble.failed(self._cause)
            except Exception as bug:
                log.exception("owners: unexpected failure, reading them all again")
                self._cause, self._position = type(bug).__name__, None
            else:
                self._cause, self._read_at = "", asked_at
                self._trouble.worked()

    async def _catch_up(self) -> None:
        if self._position is None:
            await self._load()
            return
        position, rows = await self._read(self._changes)
        if len(rows) > PAGE or not self._position.precedes(position):
            await self._load()  # a bulk change, or another database
            return
        self._position = position
        if rows:
            self._tell(self._take(self._held, rows))

    async def _load(self) -> None:
        """The whole table beside the present copy, which stays in use until then."""
        await self._read(lambda asked: ensure_usable(asked, NEEDS, _position))
        position = await self._read(_position)
        held: dict[str, bytes] = {}
        rows = [("", "", "")]
        while rows:
            rows = await self._read(partial(_page, after=rows[-1]))
            self._take(held, rows)
        before, self._held, self._position = self._held, held, position
        self._tell(frozenset(key for key in before.keys() | held.keys() if before.get(key) != held.get(key)))

    def _take(self, held: dict[str, bytes], rows: Iterable[Row]) -> Changed:
        """Put them in; what is new of them."""
        changed = set()
        for issuer, subject, text in rows:
            key, row = owner_key(issuer, subject), text.encode()
            if held.get(key) != row and (key in held or len(held) < self._most):
                held[key] = row
                changed.add(key)
        return frozenset(changed)

    def _tell(self, changed: Changed) -> None:
        OWNERS_KNOWN.set(len(self._held))
        if changed:
            for listener in self._listeners:
                listener(changed)

    async def _changes(self, connection: Connection) -> tuple[Position, list[Row]]:
        """What was committed since `position`; a few rows more than PAGE where there are more."""
        since = (self._position or Position("", "0:0:")).unseen(PAGE + 1)
        found: list[tuple[Any, ...]] = await (await connection.execute(_CHANGES, since)).fetchall()
        history, snapshot = found[0][:2]
        return Position(history, snapshot), [(row[2], row[3], row[4]) for row in found if row[2] is not None]


async def _position(connection: Connection) -> Position:
    ((history, snapshot),) = await (await connection.execute(POSITION)).fetchall()
    return Position(history, snapshot)


async def _page(connection: Connection, after: Row) -> list[Row]:
    values = {"issuer": after[0], "subject": after[1], "most": PAGE}
    rows: list[tuple[Any, ...]] = await (await connection.execute(_PAGE, values)).fetchall()
    return [(issuer, subject, text) for issuer, subject, text in rows]
