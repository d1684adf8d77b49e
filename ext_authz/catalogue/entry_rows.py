"""Published entries in Postgres, as those who may change them see them. Every function runs in the transaction of its
caller, which took a number with `next_change` first if it changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from msgspec import Struct
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ext_authz.catalogue.published import Owned
from ext_authz.db.postgres import Connection

_NEXT: LiteralString = "UPDATE catalogue_state SET position = position + 1 RETURNING position"
_ENTRY: LiteralString = """
SELECT collection, id, name, issuer, owner, owner_name, "group", maintainers, visibility, stars, version, created_at,
    changed_at
FROM catalogue_entries
"""
_ONE: LiteralString = f"{_ENTRY} WHERE collection = %s AND id = %s"
_MINE: LiteralString = f"""
{_ENTRY} WHERE owner <> '' AND (collection, id) > (%(collection)s, %(id)s)
    AND (%(everybody)s OR issuer = %(issuer)s AND (owner = %(subject)s OR %(subject)s = ANY(maintainers)
        OR "group" <> '' AND "group" = ANY(%(groups)s)))
ORDER BY collection, id LIMIT %(limit)s
"""
_VERSIONS: LiteralString = """
SELECT version, revision, published, published_at, published_by, terms
FROM catalogue_versions JOIN catalogue_revisions USING (collection, id, version, revision)
WHERE collection = %s AND id = %s ORDER BY position DESC
"""
_REVISION: LiteralString = """
SELECT revision, published, document FROM catalogue_versions JOIN catalogue_revisions
    USING (collection, id, version, revision)
WHERE collection = %s AND id = %s AND version = %s
"""
_ADD: LiteralString = """
INSERT INTO catalogue_entries (collection, id, name, issuer, owner, owner_name, visibility, created_at, changed_at,
    position)
VALUES (%(collection)s, %(id)s, %(name)s, %(issuer)s, %(owner)s, %(owner_name)s, %(visibility)s, %(at)s, %(at)s,
    %(position)s)
ON CONFLICT (collection, id) DO UPDATE SET issuer = excluded.issuer, owner = excluded.owner,
    owner_name = excluded.owner_name, visibility = excluded.visibility, created_at = excluded.created_at
    WHERE catalogue_entries.owner = ''
"""
_CHANGE: LiteralString = """
UPDATE catalogue_entries SET "group" = %(group)s, maintainers = %(maintainers)s, visibility = %(visibility)s,
    version = version + 1, changed_at = %(at)s, position = %(position)s
WHERE collection = %(collection)s AND id = %(id)s
"""
_PUT_VERSION: LiteralString = """
INSERT INTO catalogue_versions (collection, id, version, revision, published, position)
VALUES (%(collection)s, %(id)s, %(version)s, %(revision)s, true, %(position)s)
ON CONFLICT (collection, id, version) DO UPDATE SET revision = excluded.revision, published = true
"""
_PUT_REVISION: LiteralString = """
INSERT INTO catalogue_revisions (collection, id, version, revision, document, terms, published_by, published_at)
VALUES (%(collection)s, %(id)s, %(version)s, %(revision)s, %(document)s, %(terms)s, %(by)s, %(at)s)
"""


class Row(Struct, frozen=True, kw_only=True):
    """One entry."""

    collection: str
    id: str
    name: str
    owned: Owned
    visibility: str
    stars: int
    version: int
    """Of the row."""
    created_at: datetime
    changed_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        return self.collection, self.id


class VersionRow(Struct, frozen=True, kw_only=True):
    """One version of an entry."""

    version: str
    revision: int
    """The last one."""
    published: bool
    published_at: datetime
    """When its last revision was."""
    published_by: str
    terms: str
    """That were accepted then."""


class Revision(Struct, frozen=True):
    """The last one of a version."""

    revision: int
    published: bool
    document: dict[str, Any]


async def next_change(connection: Connection) -> int:
    """Whoever changes the catalogue at the same time waits here."""
    ((position,),) = await (await connection.execute(_NEXT)).fetchall()
    return int(position)


async def entry(connection: Connection, collection: str, id_: str) -> Row | None:
    found = await _rows(connection, _ONE, (collection, id_))
    return _row(found[0]) if found else None


async def mine(connection: Connection, wanted: Mapping[str, Any]) -> list[Row]:
    """`wanted`: everybody, issuer, subject, groups; collection and id of the last one on the page before; limit."""
    return [_row(each) for each in await _rows(connection, _MINE, wanted)]


async def versions(connection: Connection, key: tuple[str, str]) -> tuple[VersionRow, ...]:
    """The latest first."""
    return tuple(VersionRow(**each) for each in await _rows(connection, _VERSIONS, key))


async def revision(connection: Connection, key: tuple[str, str], version: str) -> Revision | None:
    found = await _rows(connection, _REVISION, (*key, version))
    return Revision(**found[0]) if found else None


async def count(connection: Connection, issuer: str = "", owner: str = "") -> int:
    """Of the owner; without one, of everybody."""
    query: LiteralString = """SELECT count(*) FROM catalogue_entries WHERE owner <> ''
        AND (%(owner)s = '' OR issuer = %(issuer)s AND owner = %(owner)s)"""
    ((number,),) = await (await connection.execute(query, {"issuer": issuer, "owner": owner})).fetchall()
    return int(number)


async def add(connection: Connection, new: Row, position: int) -> None:
    """Also over one that somebody has only starred."""
    whose = {"issuer": new.owned.issuer, "owner": new.owned.owner, "owner_name": new.owned.owner_name}
    fields = {name: getattr(new, name) for name in ("collection", "id", "name", "visibility")}
    await connection.execute(_ADD, {**fields, **whose, "at": new.created_at, "position": position})


async def change(connection: Connection, changed: Row, position: int, at: datetime) -> None:
    """Of group, maintainers and visibility; the version of the row grows."""
    owned = {"group": changed.owned.group, "maintainers": [*changed.owned.maintainers]}
    key = {"collection": changed.collection, "id": changed.id, "visibility": changed.visibility}
    await connection.execute(_CHANGE, {**owned, **key, "at": at, "position": position})


async def put_version(
    connection: Connection, key: tuple[str, str], version: str, content: Mapping[str, Any], **values: object
) -> None:
    """A revision, which is published. `values`: revision, terms, by, at, position."""
    row = {"collection": key[0], "id": key[1], "version": version, "document": Jsonb(content), **values}
    await connection.execute(_PUT_VERSION, row)
    await connection.execute(_PUT_REVISION, row)


async def withdraw(connection: Connection, key: tuple[str, str], version: str) -> None:
    query: LiteralString = """UPDATE catalogue_versions SET published = false
        WHERE collection = %s AND id = %s AND version = %s"""
    await connection.execute(query, (*key, version))


def _row(found: dict[str, Any]) -> Row:
    names = ("issuer", "owner", "owner_name", "group", "maintainers")
    issuer, owner, owner_name, group, maintainers = (found.pop(name) for name in names)
    return Row(**found, owned=Owned(issuer, owner, owner_name, group, tuple(maintainers)))


async def _rows(connection: Connection, query: LiteralString, values: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - psycopg's
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()
