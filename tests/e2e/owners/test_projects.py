"""`gitlab_projects` over a real Postgres: what `tollgate gitlab` writes, and a worker's copy of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from ext_authz.catalogue.entry import Card
from ext_authz.clock import SystemClock
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Connection, Pool, connect
from ext_authz.gitlab import entry_store, store
from ext_authz.gitlab.api import NOTHING
from ext_authz.gitlab.listed import Content, Found, Listed
from ext_authz.identity.project_rights import Project
from ext_authz.owners import projects
from ext_authz.owners.projects import KnownProjects
from tests.postgres_roles import role
from tests.unit.owners.test_projects import issuer
from tests.waiting import until

PATH = "team/a"
NOW = datetime(2026, 11, 20, tzinfo=UTC)


@asynccontextmanager
async def world(url: str) -> AsyncIterator[tuple[KnownProjects, Connection]]:
    """A copy that polls every 50 ms, and somebody who writes; each with the privileges that it asks for."""
    await migrate(url)
    grants = [
        [f"GRANT {', '.join(rights)} ON {table} TO {{role}}" for table, rights in needs.items()]
        for needs in (projects.NEEDS, store.NEEDS | entry_store.NEEDS)
    ]
    with role(url, *grants[0]) as reader, role(url, *grants[1]) as writer:
        pool = Pool(reader, timeout=5)
        await pool.open()
        known = KnownProjects([issuer("gitlab", PATH)], pool.run, SystemClock(), poll=0.05)
        await known.start()
        try:
            async with await connect(writer) as connection:
                yield known, connection
        finally:
            await known.stop()
            await pool.close()


async def write(connection: Connection, project: Project, *, late: float = 0) -> None:
    """As after a question that was asked so many seconds ago."""
    now, _ = await store.begun(connection, "gitlab")
    await store.write(connection, "gitlab", PATH, project, now - timedelta(seconds=late))


async def test_what_is_written_is_in_force(database_url: str) -> None:
    async with world(database_url) as (known, connection):
        assert known.loaded
        await write(connection, Project("private", {"42": 30}, 20))
        await until(lambda: known.roles("gitlab", "42") == {"gitlab:team/a:read", "gitlab:team/a:update"})
        await write(connection, Project("internal", {}, 20))
        await until(lambda: known.roles("gitlab", "42") == {"gitlab:team/a:read"})
        assert known.cause() == ""


@pytest.mark.parametrize("at_once", [True, False], ids=["nobody knows better", "asked now"])
async def test_an_older_answer_never_replaces_a_newer_one(database_url: str, *, at_once: bool) -> None:
    """Of two processes, one of which waited long for GitLab."""
    async with world(database_url) as (known, connection):
        await write(connection, Project("private", {"42": 30}, 20), late=60)
        await until(lambda: known.roles("gitlab", "42"))
        if at_once:
            await store.write(connection, "gitlab", PATH, NOTHING, None)
        else:
            await write(connection, NOTHING)
        await write(connection, Project("private", {"42": 50}, 20), late=30)
        await until(lambda: not known.roles("gitlab", "42"))
        assert await _levels(connection) == {}


async def test_the_first_number_stays(database_url: str) -> None:
    async with world(database_url) as (_, connection):
        numbers = []
        for project in (NOTHING, Project("private", {}, 20), Project("private", {}, 21), NOTHING):
            await write(connection, project)
            numbers.append((await store.begun(connection, "gitlab"))[1])
        assert numbers == [{}, {PATH: 20}, {PATH: 20}, {PATH: 20}]
        assert (await store.begun(connection, "another"))[1] == {}


async def test_an_entry_whose_content_is_gone_is_read_again(database_url: str) -> None:
    """One process deleted the row, or wrote another commit, while another knew the content."""
    found = Found(20, PATH, "a", "public", NOW, ["sharinghub:dataset"])
    first, second = "a" * 40, "b" * 40
    content = Content(Card(title="A"))
    async with world(database_url) as (_, connection):
        seen = []
        for commit, read in ((first, None), (first, content), (first, None), (second, None), (second, content)):
            now, _ = await entry_store.begun(connection, "gitlab")
            listed = Listed(found, Project("public", {}, 20), commit, read)
            await entry_store.write(connection, "gitlab", listed, now)
            ((title, digest),) = await (
                await connection.execute("SELECT content -> 'card' ->> 'title', digest FROM gitlab_entries")
            ).fetchall()
            seen.append(((await entry_store.begun(connection, "gitlab"))[1][20], title, digest != ""))
        assert seen == [
            ("", None, False),
            (first, "A", True),
            (first, "A", True),
            ("", "A", False),
            (second, "A", True),
        ]
        await entry_store.keep(connection, "gitlab", [20], datetime.now(UTC) + timedelta(hours=1))
        await entry_store.keep(connection, "another", [], datetime.now(UTC) + timedelta(hours=1))
        assert (await entry_store.begun(connection, "gitlab"))[1] == {20: second}
        await entry_store.keep(connection, "gitlab", [], datetime.now(UTC) - timedelta(hours=1))
        assert (await entry_store.begun(connection, "gitlab"))[1] == {20: second}
        await entry_store.keep(connection, "gitlab", [], datetime.now(UTC) + timedelta(hours=1))
        assert (await entry_store.begun(connection, "gitlab"))[1] == {}


async def _levels(connection: Connection) -> object:
    ((members,),) = await (await connection.execute("SELECT members FROM gitlab_projects")).fetchall()
    return members
