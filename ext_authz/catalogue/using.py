"""What whoever sees an entry may do with it: give it a star, and record runs of a processor.

A run is a row: which revision of the processor, and the value of every parameter, checked against its declaration.
What is published later changes no run. Nothing is started here.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ext_authz.catalogue import entry_rows as rows
from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.entry import PROCESSORS, Entry
from ext_authz.catalogue.parameters import Parameter, Values, values_of
from ext_authz.catalogue.publishing import not_found
from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor, NotDone, Why

R = TypeVar("R")

MOST_STARS, MOST_RUNS = 1000, 1000
"""Of one person."""

_STARS: LiteralString = "SELECT count(*) FROM catalogue_stars WHERE issuer = %(issuer)s AND subject = %(subject)s"
_STARRED: LiteralString = """
SELECT EXISTS (SELECT FROM catalogue_stars
    WHERE issuer = %(issuer)s AND subject = %(subject)s AND collection = %(collection)s AND id = %(id)s)
"""
# A model that nobody has published gets a row without an owner.
_KNOWN: LiteralString = """
INSERT INTO catalogue_entries (collection, id, name, issuer, owner, owner_name, visibility, created_at, changed_at,
    position)
VALUES (%(collection)s, %(id)s, %(id)s, '', '', '', 'private', %(at)s, %(at)s, %(position)s) ON CONFLICT DO NOTHING
"""
_STAR: LiteralString = """
INSERT INTO catalogue_stars (issuer, subject, collection, id)
VALUES (%(issuer)s, %(subject)s, %(collection)s, %(id)s) ON CONFLICT DO NOTHING
"""
_UNSTAR: LiteralString = """
DELETE FROM catalogue_stars
WHERE issuer = %(issuer)s AND subject = %(subject)s AND collection = %(collection)s AND id = %(id)s
"""
_COUNT: LiteralString = """
UPDATE catalogue_entries SET stars = stars + %(change)s, position = %(position)s
WHERE collection = %(collection)s AND id = %(id)s
"""
_RUNS: LiteralString = """
SELECT run.id, run.collection, run.entry, run.version, run.revision, run.parameters, run.started_at,
    coalesce(document -> 'parameters', '[]') AS declared
FROM catalogue_runs AS run JOIN catalogue_revisions AS revision
    ON (run.collection, run.entry, run.version, run.revision)
        = (revision.collection, revision.id, revision.version, revision.revision)
WHERE run.issuer = %(issuer)s AND run.subject = %(subject)s
    AND (%(id)s::uuid IS NULL OR run.id = %(id)s) AND (%(before)s::uuid IS NULL OR run.id < %(before)s)
ORDER BY run.id DESC LIMIT %(limit)s
"""
_NUMBER: LiteralString = "SELECT count(*) FROM catalogue_runs WHERE issuer = %(issuer)s AND subject = %(subject)s"
_RUN: LiteralString = """
INSERT INTO catalogue_runs (id, issuer, subject, collection, entry, version, revision, parameters, started_at)
VALUES (%(id)s, %(issuer)s, %(subject)s, %(collection)s, %(entry)s, %(version)s, %(revision)s, %(parameters)s,
    %(started_at)s)
"""
_FORGET: LiteralString = """
DELETE FROM catalogue_runs WHERE id = %(id)s AND issuer = %(issuer)s AND subject = %(subject)s
"""


class Run(Struct, frozen=True, kw_only=True):
    """One run of a processor."""

    id: UUID
    collection: str
    entry: str
    version: str
    revision: int
    parameters: dict[str, Any]
    """Every one that has a value, defaults among them."""
    declared: list[dict[str, Any]]
    """As the revision declares them."""
    started_at: datetime


class Using:
    """Every method raises NotDone, and Unavailable."""

    def __init__(self, pool: Pool, catalogue: Catalogue, clock: Clock) -> None:
        self._pool = pool
        self._catalogue = catalogue
        self._clock = clock

    async def star(self, actor: Actor, of: tuple[str, str], *, given: bool) -> int:
        """How many the entry has then."""
        entry = await self.seen(actor, of)
        if entry.gitlab:
            raise NotDone(Why.CONFLICT, "it is a project of a GitLab: give it a star there")
        who = {**_who(actor), "collection": entry.collection, "id": entry.id}

        async def work(connection: Connection) -> int:
            position, at = await rows.next_change(connection), self._now()
            if given and await _number(connection, _STARS, who) >= MOST_STARS:
                raise NotDone(Why.TOO_MANY, f"you have given {MOST_STARS} stars: take one back")
            if given:
                await connection.execute(_KNOWN, {**who, "at": at, "position": position})
            done = (await connection.execute(_STAR if given else _UNSTAR, who)).rowcount
            if done:
                await connection.execute(_COUNT, {**who, "change": 1 if given else -1, "position": position})
                action = "catalogue.starred" if given else "catalogue.unstarred"
                await audit.record(connection, actor, action, f"catalogue:{entry.collection}:{entry.id}", {})
            held = await rows.entry(connection, *entry.key)
            return held.stars if held else 0

        return await self._pool.transaction(work)

    async def has_starred(self, actor: Actor, of: tuple[str, str]) -> bool:
        who = {**_who(actor), "collection": of[0], "id": of[1]}
        return bool(await self._pool.run(lambda connection: _number(connection, _STARRED, who)))

    async def record(self, actor: Actor, processor: str, version: str, given: Values) -> Run:
        """A run with these parameters; `version`: empty for the latest."""
        entry = await self.seen(actor, (PROCESSORS, processor))
        known = entry.published
        if known is None or (version and version not in known.versions):
            raise not_found()
        chosen, who = version or known.version, _who(actor)

        async def work(connection: Connection) -> Run:
            revision = await rows.revision(connection, entry.key, chosen)
            if revision is None or not revision.published:
                raise not_found()
            if await _number(connection, _NUMBER, who) >= MOST_RUNS:
                raise NotDone(Why.TOO_MANY, f"{MOST_RUNS} runs are kept of each: delete some of yours")
            declared = revision.document.get("parameters", [])
            parameters = values_of([Parameter.model_validate(each) for each in declared], given)
            run = Run(
                id=_new_id(self._now()),
                collection=entry.collection,
                entry=entry.id,
                version=chosen,
                revision=revision.revision,
                parameters=parameters,
                declared=declared,
                started_at=self._now(),
            )
            await connection.execute(_RUN, {**msgspec.structs.asdict(run), **who, "parameters": Jsonb(parameters)})
            return run

        return await self._pool.transaction(work)

    async def runs(self, actor: Actor, *, before: UUID | None = None, limit: int) -> list[Run]:
        """One's own, the latest first."""
        return await self._runs({**_who(actor), "id": None, "before": before, "limit": limit})

    async def run(self, actor: Actor, wanted: UUID) -> Run:
        """One of one's own, also of a processor that is not there for them any more."""
        found = await self._runs({**_who(actor), "id": wanted, "before": None, "limit": 1})
        if not found:
            raise not_found()
        return found[0]

    async def forget(self, actor: Actor, wanted: UUID) -> None:
        who = {**_who(actor), "id": wanted}

        async def work(connection: Connection) -> int:
            return (await connection.execute(_FORGET, who)).rowcount

        if not await self._pool.run(work):
            raise not_found()

    async def seen(self, actor: Actor, of: tuple[str, str]) -> Entry:
        """As the catalogue shows it to the actor."""
        entry = await self._catalogue.entry(actor.identity, *of)
        if entry is None:
            raise not_found()
        return entry

    async def _runs(self, values: dict[str, object]) -> list[Run]:
        async def work(connection: Connection) -> list[Run]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(_RUNS, values)
                return [Run(**each) for each in await cursor.fetchall()]

        return await self._pool.run(work)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _who(actor: Actor) -> dict[str, object]:
    return {"issuer": actor.issuer, "subject": actor.subject}


async def _number(connection: Connection, query: LiteralString, values: dict[str, object]) -> int:
    ((number,),) = await (await connection.execute(query, values)).fetchall()
    return int(number)


def _new_id(at: datetime) -> UUID:
    """In the order of time (RFC 9562 section 5.7)."""
    return UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int & (1 << 62) - 1)
