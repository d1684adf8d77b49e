"""What is published, as the catalogue reads it, and who may see and change it.

Postgres is asked on every look, for what changed since the last one: so a change is seen by whoever looks after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Any, LiteralString

import msgspec
from msgspec import Struct

from ext_authz.catalogue.entry import Card, Entry, Published
from ext_authz.db.postgres import Connection, Read
from ext_authz.identity.api_tokens import CATALOGUE
from ext_authz.identity.identity import Identity
from ext_authz.tokens.model import SERVICE

MOST = 5000
"""Entries, of everybody: all of them are in the memory of each console."""
_PAGE = 500

_POSITION: LiteralString = "SELECT position FROM catalogue_state"
_CHANGED: LiteralString = """
SELECT entry.position, entry.collection, entry.id, entry.issuer, entry.owner, entry.owner_name, entry."group",
    entry.maintainers, entry.visibility, entry.stars, coalesce(latest.published_at, entry.changed_at),
    array(SELECT version FROM catalogue_versions AS each
        WHERE published AND (each.collection, each.id) = (entry.collection, entry.id) ORDER BY position DESC),
    coalesce(latest.document, '{}')
FROM catalogue_entries AS entry LEFT JOIN LATERAL (
    SELECT document, published_at FROM catalogue_versions AS each
    JOIN catalogue_revisions USING (collection, id, version, revision)
    WHERE published AND (each.collection, each.id) = (entry.collection, entry.id)
    ORDER BY position DESC LIMIT 1
) AS latest ON true
WHERE entry.position > %s ORDER BY entry.position LIMIT %s
"""


class Content(Struct, frozen=True, kw_only=True):
    """The document of a version, as it is kept."""

    title: str = ""
    description: str = ""
    license: str = ""
    keywords: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    assets: dict[str, Any] = {}
    parameters: tuple[dict[str, Any], ...] = ()


class Owned(Struct, frozen=True):
    """Whose an entry is."""

    issuer: str
    owner: str
    """Subject; empty: nobody's."""
    owner_name: str
    group: str
    """Path; empty: none."""
    maintainers: tuple[str, ...]
    """Subjects."""


class Listing(Struct, frozen=True, kw_only=True):
    """An entry."""

    collection: str
    id: str
    owned: Owned
    visibility: str
    stars: int
    at: datetime
    versions: tuple[str, ...]
    """Those that are published, the latest first."""
    content: Content

    @property
    def key(self) -> tuple[str, str]:
        return self.collection, self.id

    def entry(self, identity: Identity | None) -> Entry:
        """Who owns it, only those learn who are known themselves."""
        card = Card(
            title=self.content.title,
            description=self.content.description,
            license=self.content.license,
            keywords=self.content.keywords,
            sources=self.content.sources,
        )
        published = Published(
            owner=self.owned.owner_name if identity else "",
            visibility=self.visibility,
            version=self.versions[0],
            versions=self.versions,
            assets=self.content.assets,
            parameters=self.content.parameters,
        )
        return Entry(
            collection=self.collection, id=self.id, at=self.at, card=card, stars=self.stars, published=published
        )


def is_subject(identity: Identity, subject: str) -> bool:
    """Whether the caller is this subject of their issuer: a service account is only ever here with an API token."""
    return identity.principal.subject == subject and (identity.grant != "" or not subject.startswith(SERVICE))


def owns(identity: Identity | None, owned: Owned) -> bool:
    """An API token has to have the scope."""
    if (
        identity is None
        or identity.issuer_name != owned.issuer
        or (identity.grant and CATALOGUE not in identity.scopes)
    ):
        return False
    return owned.owner != "" and is_subject(identity, owned.owner)


def maintains(identity: Identity | None, owned: Owned) -> bool:
    """The owner, the maintainers, and members of the group: those not with an API token."""
    if identity is None or owns(identity, owned):
        return identity is not None
    if identity.issuer_name != owned.issuer or (identity.grant and CATALOGUE not in identity.scopes):
        return False
    if any(is_subject(identity, each) for each in owned.maintainers):
        return True
    return owned.group != "" and not identity.grant and owned.group in identity.groups


class PublishedEntries:
    """All of them, of everybody: who may see which is decided by whoever asks."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._position = 0
        self._known: dict[tuple[str, str], Listing] = {}
        self._lock = asyncio.Lock()

    async def all(self) -> Collection[Listing]:
        """Raises Unavailable."""
        async with self._lock:
            await self._read(self._catch_up)
            return [*self._known.values()]

    async def _catch_up(self, connection: Connection) -> None:
        ((position,),) = await (await connection.execute(_POSITION)).fetchall()
        if position < self._position:  # another database, such as an older one that was restored
            self._position, self._known = 0, {}
        while position > self._position:
            found = await (await connection.execute(_CHANGED, (self._position, _PAGE))).fetchall()
            for at, *row in found:
                listing = listing_of(row)
                self._position, self._known[listing.key] = at, listing
            if len(found) < _PAGE:
                return


def listing_of(row: list[Any]) -> Listing:
    """Of the columns in their order."""
    collection, id_, issuer, owner, owner_name, group, maintainers, visibility, stars, at, versions, document = row
    return Listing(
        collection=collection,
        id=id_,
        owned=Owned(issuer, owner, owner_name, group, tuple(maintainers)),
        visibility=visibility,
        stars=stars,
        at=at,
        versions=tuple(versions),
        content=msgspec.convert(document, Content),
    )
