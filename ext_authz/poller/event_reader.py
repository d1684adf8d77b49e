"""Reads what happened in a realm since the last time, and obeys it.

What ends tokens is revoked, and whose state may have changed is noted, in the transaction that also notes how far
events were read: nothing is missed when a process is killed, and nothing is obeyed twice.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.db.lease import Lease
from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import Unavailable
from ext_authz.policy.issuers import Issuer
from ext_authz.poller import polled_owners
from ext_authz.poller.admin_api import PAGE, AdminApi, Event, Stream, Switch
from ext_authz.poller.keycloak import TooLong
from ext_authz.poller.metrics import POLL_EVENTS
from ext_authz.poller.realm_events import OVERLAP, USER_TYPES, Meaning, Position, Revocation, meaning
from ext_authz.revocation.entry import Entry, Kind, Origin, Target
from ext_authz.revocation.operations import Operations
from ext_authz.revocation.store import Together
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor

log = logging.getLogger(__name__)

_TYPES: dict[Stream, tuple[str, ...]] = {"admin-events": (), "events": USER_TYPES}
_LONGEST = 512
"""Characters of what can be revoked."""


class Progress(Struct, frozen=True):
    """How far the streams were read: the position of the lease."""

    admin: Position
    user: Position

    def of(self, stream: Stream) -> Position:
        return self.admin if stream == "admin-events" else self.user

    def moved(self, stream: Stream, to: Position) -> Progress:
        return replace(self, admin=to) if stream == "admin-events" else replace(self, user=to)


class Found(Struct):
    """What a page of events comes to."""

    revoked: dict[Revocation, float] = {}
    """Seconds of Keycloak's clock up to which tokens were issued that end now."""
    users: set[str] = set()
    deleted: set[str] = set()
    everybody: bool = False

    def revoke(self, what: Revocation, at: float) -> None:
        self.revoked[what] = max(at, self.revoked.get(what, 0.0))

    @property
    def someone_is_due(self) -> bool:
        return self.everybody or bool(self.users or self.deleted)


class Polled(Struct, frozen=True):
    """One issuer, in the process that holds the lease, and how what is found there comes into force."""

    issuer: Issuer
    api: AdminApi
    lease: Lease
    pool: Pool
    operations: Operations
    lifetime: timedelta
    """Of revocations: at least that of every token."""

    def revocation(self, kind: Kind, value: str, at: float) -> Entry:
        """Of all tokens that were issued up to this second; of a token or a session, of every one."""
        moment = datetime.fromtimestamp(at, UTC)
        return Target(kind, self.issuer.name, value).entry(
            not_before=moment,
            expires_at=max(datetime.now(UTC), moment) + self.lifetime,
            reason="happened at the issuer",
            actor=f"issuer {self.issuer.name}",
        )

    async def in_force(self, entries: Sequence[Entry], together: Together) -> None:
        """Revocations and what belongs to them, in one transaction; each is in the audit log.

        Raises:
            Unavailable: "postgres". Of Redis nothing is said: authorizers copy there what Postgres holds.
        """
        if not entries:
            await self.pool.transaction(together)
            return

        async def recorded(connection: Connection) -> None:
            await together(connection)
            for entry in entries:
                actor = Actor(via="signal", name=entry.actor, issuer=entry.issuer)
                details = {"kind": "poll", "not_before": entry.not_before}
                await audit.record(connection, actor, "signal.obeyed", entry.id, details)

        receipt = await self.operations.write(*entries, together=recorded, origin=Origin("signal"))
        if not receipt.postgres:
            raise Unavailable("postgres", receipt.sentence)


class EventReader:
    """Of one issuer."""

    def __init__(self, polled: Polled) -> None:
        self._polled = polled
        self._issuer, self._api, self._lease = polled.issuer, polled.api, polled.lease
        self._progress: Progress | None = None

    async def read(self) -> bool:
        """Whether somebody is to be looked up now.

        Raises:
            Unavailable: the issuer or a store; nothing is lost, the next read continues.
            Lost: another process reads now.
        """
        progress, self._progress = self._progress or await self._resumed(), None
        due = False
        for stream in _TYPES:
            async for moved, found in self._stream(stream, progress):
                due |= found.someone_is_due
                await self._commit(found, moved)
                progress = moved
        self._progress = progress
        return due

    async def _resumed(self) -> Progress:
        """Where the last process stopped. Without that, all that is known now is looked up."""
        held = await self._lease.position()
        try:
            return msgspec.convert(held, Progress)
        except msgspec.ValidationError:
            await self._api.realm()  # so that its clock is known
            now = Position(int(self._api.keycloak.now() * 1000))
            await self._commit(Found(everybody=True), Progress(now, now))
            return Progress(now, now)

    async def _stream(self, stream: Stream, progress: Progress) -> AsyncGenerator[tuple[Progress, Found]]:
        """What is new, page by page."""
        start = progress.of(stream)
        last_is_there, latest = not start.last, ""
        async for page in self._pages(stream, start.since):
            known = progress.of(stream).ids
            fresh = [event for event in page if event.id not in known]
            last_is_there |= any(event.id == start.last for event in page)
            latest = page[-1].id
            progress = progress.moved(stream, progress.of(stream).after(page))
            if fresh:
                yield progress, await self._found(fresh)
        ahead = start.time / 1000 - self._api.keycloak.now()
        if not last_is_there or ahead > OVERLAP / 1000:
            why = "its clock was set back" if last_is_there else "events that were read before are no longer there"
            extra = {"issuer": self._issuer.name, "kind": stream, "detail": f"{why}: everybody is looked up"}
            log.warning("keycloak: events may be missing", extra=extra)
            time = min(progress.of(stream).time, int(self._api.keycloak.now() * 1000))
            position = replace(progress.of(stream), time=time, last=latest)
            yield progress.moved(stream, position), Found(everybody=True)

    async def _pages(self, stream: Stream, since: int) -> AsyncGenerator[list[Event]]:
        """By time, not by number: events may vanish from the front meanwhile. An event holds what was written, such as
        a whole client: where those of a page are too much for one answer, fewer are asked for."""
        skip, most = 0, PAGE
        while True:
            try:
                page = await self._api.events(stream, since=since, skip=skip, types=_TYPES[stream], most=most)
            except TooLong:
                if most == 1:
                    raise
                most //= 10
                continue
            if page:
                yield page
            if len(page) < most:
                return
            skip = skip + len(page) if page[-1].time == since else 0
            since = page[-1].time

    async def _found(self, events: Sequence[Event]) -> Found:
        found, realm, clients = Found(), 0.0, dict[str, float]()
        for event in events:
            what, at = meaning(event), event.time / 1000
            POLL_EVENTS.labels(what.kind).inc()
            _add(found, what, at)
            realm = max(realm, at) if what.realm else realm
            if what.client:
                clients[what.client] = at
        if realm:
            _switched(found, (Kind.ISSUER, ""), await self._api.realm(), realm)
        for uuid, at in clients.items():
            if client := await self._api.client(uuid):
                _switched(found, (Kind.CLIENT, client.client_id), client, at)
        return found

    async def _commit(self, found: Found, progress: Progress) -> None:
        async def together(connection: Connection) -> None:
            await self._lease.save(connection, msgspec.to_builtins(progress))
            await polled_owners.raise_some(connection, self._issuer.name, found.users, found.deleted)
            if found.everybody:
                await polled_owners.raise_all(connection, self._issuer)

        await self._polled.in_force(self._entries(found), together)

    def _entries(self, found: Found) -> list[Entry]:
        skew = self._api.keycloak.skew.seconds
        return [
            self._polled.revocation(kind, value, at + max(0.0, -skew))
            for (kind, value), at in found.revoked.items()
            if len(value) <= _LONGEST and value.isprintable() and (value or kind is Kind.ISSUER)
        ]


def _add(found: Found, what: Meaning, at: float) -> None:
    if what.revoke:
        found.revoke(what.revoke, at)
    if what.user:
        (found.deleted if what.deleted else found.users).add(what.user)
    found.everybody |= what.everybody


def _switched(found: Found, what: Revocation, switch: Switch | None, at: float) -> None:
    """A realm or a client is disabled, or does not want its tokens from before a time."""
    if switch is not None and not switch.enabled:
        found.revoke(what, at)
    elif switch is not None and switch.not_before > 0:
        found.revoke(what, switch.not_before)
