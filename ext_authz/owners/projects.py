"""A worker's copy of the table `gitlab_projects`: what GitLab says of the projects that the policy names.

Every `poll` seconds it asks what is new. Unlike what is known of owners, this gives rights: so a project that GitLab
was not asked about for `stale` seconds gives none, whether GitLab, `tollgate gitlab` or Postgres is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

import msgspec
from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, first, pause
from ext_authz.db.postgres import Connection, Read
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import Unavailable
from ext_authz.identity.project_rights import Listener, Project, roles_of
from ext_authz.observability.once import OncePerCause
from ext_authz.policy.issuers import Issuer, ProjectRights

log = logging.getLogger(__name__)

NEEDS = {"gitlab_projects": ("SELECT",)}
_PATIENCE = 5.0
"""Seconds that a worker waits for the first reading."""

_HEADS: LiteralString = """
SELECT issuer, project, digest, extract(epoch FROM clock_timestamp() - asked_at)::float8
FROM gitlab_projects WHERE issuer = ANY(%(issuers)s) AND project = ANY(%(projects)s)
"""
_BODIES: LiteralString = """
SELECT issuer, project, digest, visibility, members::text FROM gitlab_projects
WHERE (issuer, project) IN (SELECT * FROM unnest(%(issuers)s::text[], %(projects)s::text[]))
"""
_members = msgspec.json.Decoder(dict[str, int]).decode

Key = tuple[str, str]
"""The name of an issuer, and the path of a project."""


class _Held(Struct):
    digest: str
    project: Project
    asked_at: float
    """By the monotonic clock."""
    fresh: bool = True

    def is_fresh(self, now: float, rights: ProjectRights) -> bool:
        """Not if it is of the future either: the clock of Postgres was set back, and no newer answer is written."""
        return now - rights.stale < self.asked_at <= now


class KnownProjects:
    """Belongs to one worker. `roles` is asked only for tokens that are not cached."""

    def __init__(self, issuers: Iterable[Issuer], read: Read, clock: Clock, *, poll: float) -> None:
        """`poll`: seconds between two queries."""
        rights = {each.name: each.gitlab.rights for each in issuers if each.gitlab and each.gitlab.rights}
        self._rights = {name: each for name, each in rights.items() if each.projects}
        self._read, self._clock, self._poll = read, clock, poll
        self._held: dict[Key, _Held] = {}
        self._listeners: list[Listener] = []
        self._stop, self._tried = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cause = "not read yet"
        self.loaded = False
        self._trouble = OncePerCause(log, failing="projects: not read", working="projects: read again")

    def __bool__(self) -> bool:
        """Whether the policy names any."""
        return bool(self._rights)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Read the table, for a few seconds at most; what cannot be read by then is read later."""
        self._task = asyncio.create_task(self._run(), name="projects")
        await first(self._tried.wait(), seconds=_PATIENCE)

    async def stop(self) -> None:
        self._stop.set()
        if self._task:
            await self._task

    def cause(self) -> str:
        """Why users lack rights that they have in GitLab; empty where they do not."""
        if not self.loaded:
            return self._cause
        late = [path for (_, path), held in self._held.items() if not held.fresh]
        missing = [
            path for name, rights in self._rights.items() for path in rights.projects if (name, path) not in self._held
        ]
        if found := sorted((*late, *missing)):
            return f"{len(found)} projects are not known, such as {found[0]}: see the log of tollgate gitlab"
        return ""

    def roles(self, issuer: str, user: str) -> frozenset[str]:
        """As `identity.project_rights.Projects.roles`."""
        rights = self._rights.get(issuer)
        if rights is None:
            return frozenset()
        if not self.loaded:
            raise Unavailable("postgres", f"the projects of users are not known: {self._cause}")
        return roles_of(user, rights, self._fresh(issuer, rights))

    def _fresh(self, issuer: str, rights: ProjectRights) -> Mapping[str, Project]:
        now = self._clock.monotonic()
        found = ((path, self._held.get((issuer, path))) for path in rights.projects)
        return {path: held.project for path, held in found if held and held.is_fresh(now, rights)}

    async def _run(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            await self._attempt()
            self._tried.set()
            if self._cause:
                await backoff.pause()
            else:
                backoff.succeeded()
                await pause(self._stop, self._poll)

    async def _attempt(self) -> None:
        try:
            await self._catch_up()
        except Unavailable as failure:
            self._cause = failure.detail or "no answer"
            self._trouble.failed(self._cause)
        except Exception as bug:
            log.exception("projects: unexpected failure")
            self._cause = type(bug).__name__
        else:
            self._cause, self.loaded = "", True
            self._trouble.worked()
        self._tell_of_age()

    async def _catch_up(self) -> None:
        asked_at = self._clock.monotonic()
        if not self.loaded:
            await self._read(lambda asked: ensure_usable(asked, NEEDS, self._heads))
        heads = await self._read(self._heads)
        new = [key for key, digest, _ in heads if key not in self._held or self._held[key].digest != digest]
        bodies = await self._read(lambda connection: _bodies(connection, new)) if new else {}
        for key, digest, age in heads:
            read_digest, project = bodies.get(key, (digest, None))
            if project is not None:
                self._take(key, _Held(read_digest, project, asked_at - age))
            elif key in self._held:
                self._held[key].asked_at = asked_at - age
        for key in self._held.keys() - {key for key, *_ in heads}:
            del self._held[key]
            self._tell(key[0], None)

    def _take(self, key: Key, new: _Held) -> None:
        old = self._held.get(key)
        new.fresh = old.fresh if old else False
        self._held[key] = new
        if old is not None:
            self._tell(key[0], _changed(old.project, new.project))

    def _tell_of_age(self) -> None:
        """Whatever became stale, or fresh: everybody's rights there are others now."""
        now = self._clock.monotonic()
        for (issuer, _), held in self._held.items():
            fresh = held.is_fresh(now, self._rights[issuer])
            if fresh != held.fresh:
                held.fresh = fresh
                self._tell(issuer, None)

    def _tell(self, issuer: str, users: frozenset[str] | None) -> None:
        for listener in self._listeners:
            listener(issuer, users)

    async def _heads(self, connection: Connection) -> list[tuple[Key, str, float]]:
        projects = sorted({path for rights in self._rights.values() for path in rights.projects})
        cursor = await connection.execute(_HEADS, {"issuers": [*self._rights], "projects": projects})
        rows: list[tuple[Any, ...]] = await cursor.fetchall()
        named = {(name, path) for name, rights in self._rights.items() for path in rights.projects}
        return [((row[0], row[1]), row[2], row[3]) for row in rows if (row[0], row[1]) in named]


def _changed(old: Project, new: Project) -> frozenset[str] | None:
    """Users with another level than before; None: whoever sees it."""
    if old.visibility != new.visibility:
        return None
    users = old.members.keys() | new.members.keys()
    return frozenset(user for user in users if old.members.get(user) != new.members.get(user))


async def _bodies(connection: Connection, keys: Sequence[Key]) -> dict[Key, tuple[str, Project]]:
    values = {"issuers": [issuer for issuer, _ in keys], "projects": [path for _, path in keys]}
    rows: list[tuple[Any, ...]] = await (await connection.execute(_BODIES, values)).fetchall()
    return {(row[0], row[1]): (row[2], Project(row[3], _members(row[4]))) for row in rows}
