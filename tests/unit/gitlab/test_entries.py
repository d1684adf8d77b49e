"""Rounds over the projects of the catalogue: what stays and what goes when not all of them can be asked about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from ext_authz.db.postgres import Pool
from ext_authz.errors import Unavailable
from ext_authz.gitlab import entry_store
from ext_authz.gitlab.entries import Entries
from ext_authz.gitlab.listed import Content, Found, Listed, ListedProjects
from ext_authz.identity.project_rights import Project

MOMENT = datetime(2026, 11, 20, 13, tzinfo=UTC)
COMMIT = "a" * 40


class World:
    """A GitLab with two projects, and Postgres as far as is asked here."""

    def __init__(self) -> None:
        self.away, self.broken, self.wrong = "", 0, 0
        self.known: dict[int, str | None] = {}
        self.rows: dict[int, str] = {}
        self.entries = Entries("gitlab", cast(ListedProjects, self), cast(Pool, self))
        self._found: list[Any] = []

    async def all(self) -> Sequence[Found]:
        if self.away == "gitlab":
            raise Unavailable("gitlab", "sharinghub:aimodel: status 500")
        return [Found(number, f"team/{number}", "x", "public", MOMENT, ["sharinghub:aimodel"]) for number in (1, 2)]

    async def listed(self, found: Found, known: str | None) -> Listed:
        self.known[found.id] = known
        if found.id == self.broken:
            raise Unavailable("gitlab", f"{found.path_with_namespace}: status 500")
        content = None if known == COMMIT else Content()
        return Listed(found, Project("public", {}, found.id), COMMIT, content)

    async def run(self, work: Any) -> Any:  # noqa: ANN401 - of the pool
        if self.away == "postgres":
            raise Unavailable("postgres", "away")
        return await work(self)

    async def execute(self, query: str, values: Any) -> World:  # noqa: ANN401 - of psycopg
        if query == entry_store._BEGUN:
            self._found = [(MOMENT, {str(number): commit for number, commit in self.rows.items()})]
        elif query == entry_store._KEEP:
            self.rows = {number: commit for number, commit in self.rows.items() if number in values["numbers"]}
        else:
            if values["number"] == self.wrong:
                raise ValueError("a text that Postgres does not take")
            self.rows[values["number"]] = values["commit"]
        return self

    async def fetchall(self) -> list[Any]:
        return self._found


async def test_what_is_listed_no_more_goes() -> None:
    world = World()
    world.rows = {3: COMMIT}
    assert await world.entries.learn(told=False)
    assert world.rows == {1: COMMIT, 2: COMMIT}
    assert world.known == {1: None, 2: None}
    assert await world.entries.learn(told=False)
    assert world.known == {1: COMMIT, 2: COMMIT}


@pytest.mark.parametrize(("told", "left"), [(False, {1, 2}), (True, set())])
async def test_without_gitlab_a_webhook_hides_everything(*, told: bool, left: set[int]) -> None:
    world = World()
    await world.entries.learn(told=False)
    world.away = "gitlab"
    assert not await world.entries.learn(told=told)
    assert world.rows.keys() == left


@pytest.mark.parametrize(("told", "left"), [(False, {1, 2}), (True, {1})])
async def test_one_project_that_cannot_be_asked_about(*, told: bool, left: set[int]) -> None:
    world = World()
    await world.entries.learn(told=False)
    world.broken = 2
    assert not await world.entries.learn(told=told)
    assert world.rows.keys() == left


async def test_one_project_that_cannot_be_kept_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.wrong = 1
    assert not await world.entries.learn(told=False)
    assert world.rows.keys() == {2}
    assert "cannot be kept" in caplog.text


async def test_without_postgres_nothing_is_learned() -> None:
    world = World()
    world.away = "postgres"
    assert not await world.entries.learn(told=True)
