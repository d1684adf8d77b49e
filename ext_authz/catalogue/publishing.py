"""What may be done with published entries, and by whom: publish, withdraw, publish again, hand over.

Who may not see an entry gets the same answer as for one that does not exist. Every change is in the audit log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from msgspec import Struct, structs

from ext_authz.catalogue import entry_rows as rows
from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.entry import MODELS
from ext_authz.catalogue.entry_rows import Revision, Row, VersionRow
from ext_authz.catalogue.publication import Publication, Visibility, id_of
from ext_authz.catalogue.published import MOST, Owned, maintains, owns
from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.identity.identity import is_text
from ext_authz.tokens import audit
from ext_authz.tokens.accounts import groups_of
from ext_authz.tokens.model import Actor, NotDone, Why

R = TypeVar("R")

MOST_OF_OWNER = 100
"""Entries of one owner."""
MOST_VERSIONS, MOST_REVISIONS = 100, 100
"""Of an entry; of a version."""
MOST_MAINTAINERS = 20


class Detail(Struct, frozen=True):
    """An entry for those who may change it."""

    entry: Row
    versions: tuple[VersionRow, ...]
    """The latest first, also those that are not published."""


class Handover(Struct, frozen=True, kw_only=True):
    """What an owner changes of an entry; None: it stays."""

    visibility: Visibility | None = None
    group: str | None = None
    maintainers: tuple[str, ...] | None = None


class Publishing:
    """Every method raises NotDone, and Unavailable."""

    def __init__(self, pool: Pool, catalogue: Catalogue, clock: Clock, terms: str) -> None:
        """`terms`: which whoever publishes has to accept."""
        self._pool = pool
        self._catalogue = catalogue
        self._clock = clock
        self.terms = terms

    async def publish(self, actor: Actor, wanted: Publication, of: str = "") -> Detail:
        """A new version; to repeat it changes nothing. `of`: the id of the entry, where it is another's that the actor
        maintains; else it is the actor's own, which comes into being with its first version."""
        self._ensure_terms(wanted.accept_terms)
        whose = id_of(wanted.collection, wanted.name, actor.issuer, actor.subject)
        key = (wanted.collection, of or whose)

        async def work(connection: Connection, position: int) -> Detail:
            held = await rows.entry(connection, *key)
            if (held is None or not held.owned.owner) and not of:
                held = await self._add(connection, actor, wanted, key, position)
            held = self._usable(actor, held)
            if held.name != wanted.name:
                raise NotDone(Why.INVALID, f"this entry is called {held.name}", "name")
            if wanted.visibility not in (None, held.visibility):
                raise NotDone(Why.CONFLICT, f"the entry is {held.visibility}: its owner changes that", "visibility")
            known = await rows.revision(connection, key, wanted.version)
            if known is None:
                await self._put(connection, actor, held, wanted, 1, position)
            elif not (known.published and known.document == wanted.content()):
                raise NotDone(Why.CONFLICT, "there is this version: republish it, or write another one")
            return await self._detail(connection, key)

        return await self._changed(work)

    async def republish(self, actor: Actor, of: tuple[str, str], wanted: Publication, seen: int | None) -> Detail:
        """A version that there is, with what is said of it now: a new revision of it. Runs keep theirs."""
        self._ensure_terms(wanted.accept_terms)

        async def work(connection: Connection, position: int) -> Detail:
            held, known = await self._version(connection, actor, of, wanted.version, seen)
            if (held.collection, held.name) != (wanted.collection, wanted.name):
                raise NotDone(Why.INVALID, f"this entry is the {held.collection} {held.name}", "name")
            if wanted.visibility not in (None, held.visibility):
                raise NotDone(Why.CONFLICT, f"the entry is {held.visibility}: its owner changes that", "visibility")
            if known.revision >= MOST_REVISIONS:
                raise NotDone(Why.TOO_MANY, f"a version is published {MOST_REVISIONS} times at most", "version")
            if not (known.published and known.document == wanted.content()):
                await self._put(connection, actor, held, wanted, known.revision + 1, position)
            return await self._detail(connection, of)

        return await self._changed(work)

    async def unpublish(self, actor: Actor, of: tuple[str, str], version: str, seen: int | None) -> Detail:
        """From then on nobody finds the version; runs of it stay as they are."""

        async def work(connection: Connection, position: int) -> Detail:
            held, known = await self._version(connection, actor, of, version, seen)
            if known.published:
                await rows.withdraw(connection, of, version)
                await rows.change(connection, held, position, self._now())
                await _record(connection, actor, "catalogue.unpublished", held, {"version": version})
            return await self._detail(connection, of)

        return await self._changed(work)

    async def hand_over(self, actor: Actor, of: tuple[str, str], wanted: Handover, seen: int | None) -> Detail:
        """Who maintains an entry and who sees it: its owner says so, and administrators."""
        changes = {name: value for name, value in structs.asdict(wanted).items() if value is not None}

        async def work(connection: Connection, position: int) -> Detail:
            held = await self._held(connection, actor, of, seen)
            if held.collection != MODELS and not (actor.administrator or owns(actor.identity, held.owned)):
                raise NotDone(Why.FORBIDDEN, "the owner of the entry does that")
            _ensure_handover(actor, held, wanted)
            owned = {name: value for name, value in changes.items() if name != "visibility"}
            visibility = wanted.visibility or held.visibility
            changed = structs.replace(held, visibility=visibility, owned=structs.replace(held.owned, **owned))
            if changed != held:
                await rows.change(connection, changed, position, self._now())
                await _record(connection, actor, "catalogue.changed", held, changes)
            return await self._detail(connection, of)

        return await self._changed(work)

    async def get(self, actor: Actor, of: tuple[str, str]) -> Detail:
        """For those who may change it."""

        async def work(connection: Connection) -> Detail:
            await self._held(connection, actor, of, None)
            return await self._detail(connection, of)

        return await self._pool.transaction(work)

    async def mine(self, actor: Actor, *, everybody: bool, after: tuple[str, str], limit: int) -> list[Row]:
        """What the actor may change, by collection and id; but for models that they administer and did not publish."""
        if everybody and not actor.administrator:
            raise NotDone(Why.FORBIDDEN, "only administrators see the entries of everybody", "everybody")
        who = {"issuer": actor.issuer, "subject": actor.subject, "groups": sorted(groups_of(actor))}
        wanted = {**who, "everybody": everybody, "collection": after[0], "id": after[1], "limit": limit}
        found = await self._pool.run(partial(rows.mine, wanted=wanted))
        return [each for each in found if self._maintains(actor, each)]

    async def document(self, actor: Actor, of: tuple[str, str], version: str) -> Revision:
        """The last revision of a version, for those who may change the entry."""
        return (await self._pool.run(partial(self._version, actor=actor, of=of, version=version, seen=None)))[1]

    async def _changed(self, work: Callable[[Connection, int], Awaitable[R]]) -> R:
        async def numbered(connection: Connection) -> R:
            return await work(connection, await rows.next_change(connection))

        return await self._pool.transaction(numbered)

    async def _add(
        self, connection: Connection, actor: Actor, wanted: Publication, key: tuple[str, str], position: int
    ) -> Row:
        if not actor.subject:
            raise NotDone(Why.INVALID, "only somebody who is known to an identity provider publishes")
        if await rows.count(connection, actor.issuer, actor.subject) >= MOST_OF_OWNER:
            raise NotDone(Why.TOO_MANY, f"one owner has {MOST_OF_OWNER} entries at most: publish versions of them")
        if await rows.count(connection) >= MOST:
            raise NotDone(Why.TOO_MANY, f"the catalogue has {MOST} published entries at most")
        name = actor.identity.username if actor.identity else ""
        new = Row(
            collection=wanted.collection,
            id=key[1],
            name=wanted.name,
            owned=Owned(actor.issuer, actor.subject, name or actor.subject, "", ()),
            visibility=wanted.visibility or "private",
            stars=0,
            version=1,
            created_at=self._now(),
            changed_at=self._now(),
        )
        self._usable(actor, new)
        await rows.add(connection, new, position)
        return new

    async def _put(
        self, connection: Connection, actor: Actor, held: Row, wanted: Publication, revision: int, position: int
    ) -> None:
        if revision == 1 and len(await rows.versions(connection, held.key)) >= MOST_VERSIONS:
            raise NotDone(Why.TOO_MANY, f"an entry has {MOST_VERSIONS} versions at most", "version")
        now = self._now()
        await rows.put_version(
            connection,
            held.key,
            wanted.version,
            wanted.content(),
            revision=revision,
            terms=wanted.accept_terms,
            by=actor.name,
            at=now,
            position=position,
        )
        await rows.change(connection, held, position, now)
        details = {"version": wanted.version, "revision": revision, "visibility": held.visibility}
        action = "catalogue.published" if revision == 1 else "catalogue.republished"
        await _record(connection, actor, action, held, {**details, "terms": wanted.accept_terms})

    async def _version(
        self, connection: Connection, actor: Actor, of: tuple[str, str], version: str, seen: int | None
    ) -> tuple[Row, Revision]:
        held = await self._held(connection, actor, of, seen)
        known = await rows.revision(connection, of, version) if is_text(version) else None
        if known is None:
            raise not_found()
        return held, known

    async def _held(self, connection: Connection, actor: Actor, of: tuple[str, str], seen: int | None) -> Row:
        held = self._usable(actor, await rows.entry(connection, *of) if all(map(is_text, of)) else None)
        if seen not in (None, held.version):
            raise NotDone(Why.CONFLICT, "it has changed meanwhile: read it again", "version")
        return held

    async def _detail(self, connection: Connection, key: tuple[str, str]) -> Detail:
        held = await rows.entry(connection, *key)
        if held is None:
            raise not_found()
        return Detail(held, await rows.versions(connection, key))

    def _maintains(self, actor: Actor, held: Row) -> bool:
        """Of a model, whoever may administer it, as the policy says."""
        if actor.administrator:
            return True
        if held.collection == MODELS:
            return actor.identity is not None and self._catalogue.administers(actor.identity, held.id)
        return maintains(actor.identity, held.owned)

    def _usable(self, actor: Actor, held: Row | None) -> Row:
        if held is None or not held.owned.owner or not self._maintains(actor, held):
            raise not_found()
        return held

    def _ensure_terms(self, accepted: str) -> None:
        if accepted != self.terms:
            detail = f"accept the terms of publishing: write {self.terms!r}, if you do"
            raise NotDone(Why.INVALID, detail, "accept_terms")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _ensure_handover(actor: Actor, held: Row, wanted: Handover) -> None:
    if held.collection == MODELS and (wanted.group or wanted.maintainers):
        raise NotDone(Why.INVALID, "the policy says who administers a model", "maintainers")
    people = wanted.maintainers or ()
    if len(people) > MOST_MAINTAINERS or not all(map(is_text, people)):
        raise NotDone(Why.INVALID, f"at most {MOST_MAINTAINERS} subjects of 1 to 255 characters", "maintainers")
    if wanted.group and not is_text(wanted.group):
        raise NotDone(Why.INVALID, "a group is its path, as in tokens: 1 to 255 printable characters", "group")
    if wanted.group and not actor.administrator and wanted.group not in groups_of(actor):
        raise NotDone(Why.FORBIDDEN, "you are no member of this group: choose one of yours", "group")


async def _record(connection: Connection, actor: Actor, action: str, held: Row, details: dict[str, object]) -> None:
    await audit.record(connection, actor, action, f"catalogue:{held.collection}:{held.id}", details)


def not_found() -> NotDone:
    """The same for what is not there and for what the actor may not know of."""
    return NotDone(Why.NOT_FOUND, "there is no such thing, or none that you may know of")
