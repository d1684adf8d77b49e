"""Rounds, and webhooks that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest

from ext_authz.db.postgres import Pool
from ext_authz.errors import Unavailable
from ext_authz.gitlab import rounds as module
from ext_authz.gitlab.api import NOTHING
from ext_authz.gitlab.hooks import EVENTS, application
from ext_authz.gitlab.rights import Rights
from ext_authz.gitlab.rounds import MOST_WAITING, Rounds
from ext_authz.identity.project_rights import Project
from tests.waiting import until

MOMENT = datetime(2026, 11, 20, 13, tzinfo=UTC)
SECRET = "the-secret-of-the-webhook"


class Database:
    """Keeps what is written, as it is given to Postgres."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.away = False

    async def run(self, work: Any) -> Any:  # noqa: ANN401 - of the pool
        if self.away:
            raise Unavailable("postgres", "away")
        return await work(self)

    async def execute(self, _: str, values: dict[str, Any] | None = None) -> Database:
        if values is not None and "project" in values:
            before = self.rows.get(values["project"], values)["number"]
            self.rows[values["project"]] = values | {"number": before or values["number"]}
        return self

    async def fetchall(self) -> list[tuple[datetime, dict[str, int]]]:
        return [(MOMENT, {path: row["number"] for path, row in self.rows.items() if row["number"]})]


class World:
    def __init__(self) -> None:
        self.database = Database()
        self.projects: dict[str, Project | None] = {name: Project("private", {"42": 30}) for name in ("a", "b")}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        self.rights = Rights("gitlab", self.projects, self.ask, cast(Pool, self.database))
        self.rounds = Rounds(self.rights.learn, period=600)
        self.entries, self.entries_learned = 0, True

    async def complete_entries(self) -> bool:
        self.entries += 1
        return self.entries_learned

    async def ask(self, path: str) -> Project:
        self.asked.append(path)
        if self.gate:
            await self.gate.wait()
        if (found := self.projects[path]) is None:
            raise Unavailable("gitlab", f"{path}: status 500")
        return found

    def row(self, path: str) -> tuple[str, dict[str, int], datetime | None]:
        row = self.database.rows[path]
        return row["visibility"], row["members"].obj, row["asked_at"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[httpx.AsyncClient]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.rounds.run(stop))
        transport = httpx.ASGITransport(application(SECRET, self.rounds.complete, self.complete_entries))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://hooks") as http:
                yield http
        finally:
            stop.set()
            await task


def hook(token: str = SECRET, event: str = "Member Hook") -> dict[str, str]:
    return {"x-gitlab-token": token, "x-gitlab-event": event}


async def test_the_first_round_needs_no_webhook() -> None:
    world = World()
    async with world.running(), asyncio.timeout(10):
        await until(lambda: len(world.database.rows) == 2)
    assert world.row("a") == ("private", {"42": 30}, MOMENT)


@pytest.mark.parametrize("event", sorted(EVENTS))
async def test_a_webhook_is_answered_when_it_is_in_force(event: str) -> None:
    world = World()
    async with world.running() as http:
        world.projects["a"] = Project("public", {})
        answer = await http.post("/gitlab", headers=hook(event=event), content=b"\xff not read")
        assert (answer.status_code, answer.text) == (200, "in force\n")
        assert world.row("a") == ("public", {}, MOMENT)


async def test_webhooks_during_a_round_share_the_next_one() -> None:
    world = World()
    world.gate = asyncio.Event()
    async with world.running() as http, asyncio.timeout(10):
        await until(lambda: len(world.asked) == 2)
        told = [asyncio.create_task(http.post("/gitlab", headers=hook())) for _ in range(MOST_WAITING)]
        await until(lambda: len(world.rounds._waiting) == MOST_WAITING)
        assert (await http.post("/gitlab", headers=hook())).status_code == 503
        world.gate.set()
        assert {(await each).status_code for each in told} == {200}
    assert world.asked == ["a", "b", "a", "b"]


async def test_what_cannot_be_asked_after_a_webhook_gives_nobody_a_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0)
    world = World()
    async with world.running() as http, asyncio.timeout(10):
        assert (await http.post("/gitlab", headers=hook())).status_code == 200
        world.projects["a"] = None
        assert (await http.post("/gitlab", headers=hook())).status_code == 503
        assert world.row("a") == ("private", {}, None)
        assert world.row("b") == ("private", {"42": 30}, MOMENT)
        world.projects["a"] = Project("private", {"7": 30})
        await until(lambda: world.row("a")[1] == {"7": 30})


async def test_another_project_at_the_same_path_inherits_nothing() -> None:
    """Its owner took a name that somebody gave up. The first number stays, also while there is none at the path."""
    world = World()
    for project, members, learned in (
        (Project("private", {"42": 30}, 20), {"42": 30}, True),
        (Project("private", {"666": 50}, 21), {}, False),
        (NOTHING, {}, True),
        (Project("public", {"666": 50}, 21), {}, False),
        (Project("private", {"7": 30}, 20), {"7": 30}, True),
    ):
        world.projects["a"] = project
        assert await world.rights.learn(told=False) == learned
        assert world.row("a") == ("private", members, MOMENT)


async def test_what_to_do_with_another_project_is_said(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.projects["a"] = Project("private", {}, 20)
    await world.rights.learn(told=False)
    world.projects["a"] = Project("private", {}, 21)
    await world.rights.learn(told=True)
    assert caplog.records[-1].__dict__["error"] == (
        "a: it was project 20 and is 21 now: if that is right, delete its row in gitlab_projects"
    )


async def test_without_a_webhook_the_last_answer_stays() -> None:
    world = World()
    async with world.running() as http:
        assert (await http.post("/gitlab", headers=hook())).status_code == 200
    world.projects["a"] = None
    assert not await world.rights.learn(told=False)
    assert world.row("a") == ("private", {"42": 30}, MOMENT)


async def test_without_postgres_nothing_is_confirmed() -> None:
    world = World()
    world.database.away = True
    async with world.running() as http:
        assert (await http.post("/gitlab", headers=hook())).status_code == 503


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-gitlab-token", "")],
        [("x-gitlab-token", SECRET[:-1])],
        [("x-gitlab-token", SECRET), ("x-gitlab-token", SECRET)],
        [("x-gitlab-token", f"{SECRET}\u00e9".encode("latin-1"))],
        [("authorization", f"Bearer {SECRET}")],
    ],
    ids=range(6),
)
async def test_who_does_not_know_the_secret(headers: list[tuple[str, str]]) -> None:
    world = World()
    async with world.running() as http:
        answer = await http.post("/gitlab", headers=[*headers, ("x-gitlab-event", "Member Hook")])
        assert answer.status_code == 401
        assert SECRET not in answer.text


async def test_other_events_ask_nothing() -> None:
    world = World()
    async with world.running() as http:
        assert (await http.post("/gitlab", headers=hook())).status_code == 200
        asked = len(world.asked)
        for event in ("Issue Hook", "Pipeline Hook", ""):
            assert (await http.post("/gitlab", headers=hook(event=event))).status_code == 200
        assert (await http.get("/gitlab", headers=hook())).status_code == 405
        assert (await http.get("/healthz")).text == "alive\n"
        assert len(world.asked) == asked


async def test_a_push_concerns_the_catalogue_alone() -> None:
    world = World()
    async with world.running() as http:
        assert (await http.post("/gitlab", headers=hook())).status_code == 200
        asked, entries = len(world.asked), world.entries
        answer = await http.post("/gitlab", headers=hook(event="Push Hook"))
        assert (answer.status_code, answer.text) == (200, "in force\n")
        assert (len(world.asked), world.entries) == (asked, entries + 1)


async def test_every_other_event_concerns_both() -> None:
    world = World()
    async with world.running() as http:
        for learned, status in ((True, 200), (False, 503)):
            world.entries_learned = learned
            assert (await http.post("/gitlab", headers=hook())).status_code == status
        assert world.entries == 2
        assert world.row("a") == ("private", {"42": 30}, MOMENT)
