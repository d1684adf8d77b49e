"""Projects of a GitLab in the catalogue: what `tollgate gitlab` wrote, and who may see it.

As for their roles, an answer of GitLab that is older than `stale` counts for nothing, public projects included: they
may be private now. Postgres is asked on every look, for what changed since the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, LiteralString
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.catalogue.entry import Access, Card, Entry, InGitlab
from ext_authz.db.postgres import Connection, Read
from ext_authz.identity.identity import Identity
from ext_authz.identity.project_rights import Project, access_level, may_read
from ext_authz.policy.issuers import Issuer

_HEADS: LiteralString = """
SELECT issuer, number, digest, extract(epoch FROM clock_timestamp() - asked_at)::float8
FROM gitlab_entries WHERE issuer = ANY(%(issuers)s)
"""
_BODIES: LiteralString = """
SELECT issuer, number, digest, path, visibility, members, collections, about, commit, content FROM gitlab_entries
WHERE (issuer, number) IN (SELECT * FROM unnest(%(issuers)s::text[], %(numbers)s::bigint[]))
"""

_PAGE = 100

Key = tuple[str, int]
"""The name of an issuer, and the number of a project."""


class _About(Struct, frozen=True):
    name: str
    description: str
    branch: str
    stars: int
    at: datetime


class _File(Struct, frozen=True):
    path: str
    sha256: str
    size: int


class _Content(Struct, frozen=True):
    card: Card = Card()
    files: tuple[_File, ...] = ()


class _Held(Struct, frozen=True):
    digest: str
    project: Project
    path: str
    name: str
    entries: tuple[Entry, ...]
    """One for each collection."""


class GitlabEntries:
    """Of all GitLabs of the policy that have some in the catalogue."""

    def __init__(self, issuers: Iterable[Issuer], read: Read) -> None:
        self._issuers = {each.name: each for each in issuers}
        self._rights = {
            each.name: each.gitlab.rights
            for each in self._issuers.values()
            if each.gitlab and each.gitlab.rights and each.gitlab.rights.catalogue
        }
        self._read = read
        self._held: dict[Key, _Held] = {}
        self._lock = asyncio.Lock()

    async def entries(self, identity: Identity | None) -> Sequence[Entry]:
        """Those that the caller may see; `identity` None: who has no credential. Raises Unavailable."""
        if not self._rights:
            return ()
        async with self._lock:
            ages = await self._read(self._catch_up)
            return [entry for key, age in ages.items() for entry in self._seen(key, age, identity)]

    async def access(self, identity: Identity, path: str) -> Access | None:
        """To the project with this path, or with this number in the caller's GitLab. None: there is none, or nothing
        for this caller. Raises Unavailable."""
        if not self._rights:
            return None
        async with self._lock:
            ages = await self._read(self._catch_up)
            found = [self._access(key, age, identity, path) for key, age in ages.items()]
        return max((each for each in found if each), key=lambda each: each.level, default=None)

    def _access(self, key: Key, age: float, identity: Identity, path: str) -> Access | None:
        (issuer, number), held = key, self._held.get(key)
        if held is None or not held.entries or not 0 <= age < self._rights[issuer].stale:
            return None
        is_it = path == held.path or (path == str(number) and issuer == identity.issuer_name)
        level = access_level(identity, issuer, held.project, self._rights[issuer]) if is_it else 0
        categories = tuple(each.collection for each in held.entries)
        return Access(number, held.name, held.path, level, categories) if level else None

    def _seen(self, key: Key, age: float, identity: Identity | None) -> Iterator[Entry]:
        issuer, held = key[0], self._held.get(key)
        rights = self._rights[issuer]
        if held is None or not 0 <= age < rights.stale or not may_read(identity, issuer, held.project, rights):
            return
        yield from held.entries

    async def _catch_up(self, connection: Connection) -> dict[Key, float]:
        """Ages in seconds."""
        rows = await (await connection.execute(_HEADS, {"issuers": [*self._rights]})).fetchall()
        digests = {(issuer, number): digest for issuer, number, digest, _ in rows}
        self._held = {key: held for key, held in self._held.items() if digests.get(key) == held.digest}
        new = [key for key in digests if key not in self._held]
        for begin in range(0, len(new), _PAGE):
            some = new[begin : begin + _PAGE]
            values = {"issuers": [issuer for issuer, _ in some], "numbers": [number for _, number in some]}
            for row in await (await connection.execute(_BODIES, values)).fetchall():
                self._held[row[0], row[1]] = self._held_of(row)
        return {(issuer, number): age for issuer, number, _, age in rows}

    def _held_of(self, row: Sequence[Any]) -> _Held:
        name, number, digest, path, visibility, members, collections, said, commit, content = row
        about, card = msgspec.convert(said, _About), msgspec.convert(content, _Content)
        url = f"{self._issuers[name].issuer.rstrip('/')}/{quote(path)}"
        entry = Entry(
            collection="",
            id=f"{name}~{number}",
            at=about.at,
            card=_card(card.card, about),
            stars=about.stars,
            gitlab=InGitlab(
                number=number,
                path=path,
                name=about.name,
                visibility=visibility,
                branch=about.branch,
                url=url,
                assets={each.path: _asset(each, f"{url}/-/raw/{commit}") for each in card.files},
            ),
        )
        entries = tuple(replace(entry, collection=each) for each in collections)
        return _Held(digest, Project(visibility, members, number), path, about.name, entries)


def _card(card: Card, about: _About) -> Card:
    return replace(card, title=card.title or about.name, description=card.description or about.description)


def _asset(file: _File, where: str) -> dict[str, Any]:
    """As in a STAC item; `file:checksum` is a multihash: SHA-256, 32 bytes."""
    return {
        "href": f"{where}/{quote(file.path)}",
        "type": "application/octet-stream",
        "title": file.path,
        "roles": ["data"],
        "file:size": file.size,
        "file:checksum": f"1220{file.sha256}",
    }
