"""What is made of GitLab's answers, and of what are none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from ext_authz.errors import Unavailable
from ext_authz.gitlab.api import NOTHING, GitlabApi
from ext_authz.identity.project_rights import Project
from tests.fakes import FakeClock

PROJECT: dict[str, Any] = {"id": 20, "path_with_namespace": "team/forecast", "visibility": "internal"}


def member(user: object, level: int = 30, **more: object) -> dict[str, object]:
    return {"id": user, "access_level": level, "state": "active", "expires_at": None, **more}


def streamed(found: object) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield json.dumps(found).encode()

    return httpx.Response(200, content=body())


async def asked(project: object, *pages: object, status: int = 200) -> Project:
    found: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        found.append(request)
        assert request.headers["private-token"] == "glpat"
        if request.url.path == "/api/v4/projects/20/members/all":
            return streamed(pages[int(request.url.params["page"]) - 1])
        assert request.url.raw_path == b"/api/v4/projects/team%2Fforecast"
        if isinstance(project, Exception):
            raise project
        return streamed(project) if status == 200 else httpx.Response(status)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        return await GitlabApi("http://gitlab/", "glpat", http, FakeClock()).project("team/forecast")


async def test_a_project_and_its_members() -> None:
    found = await asked(PROJECT, [member(1, 10), member(2, 50)])
    assert found == Project("internal", {"1": 10, "2": 50}, 20)


async def test_pages() -> None:
    found = await asked(PROJECT, [member(user) for user in range(100)], [member(100)])
    assert len(found.members) == 101


async def test_the_highest_level_counts() -> None:
    assert (await asked(PROJECT, [member(1, 40), member(1, 20)])).members == {"1": 40}


@pytest.mark.parametrize(
    "more",
    [
        {"state": "blocked"},
        {"state": "awaiting"},
        {"membership_state": "awaiting"},
        {"expires_at": "2026-11-20"},
        {"expires_at": "2026-11-20T00:00:00.000Z"},
        {"access_level": 0},
    ],
)
async def test_who_is_not_in(more: Mapping[str, object]) -> None:
    assert (await asked(PROJECT, [{**member(1), **more}, member(2)])).members == {"2": 30}


async def test_who_is_in_until_tomorrow() -> None:
    assert (await asked(PROJECT, [member(1, expires_at="2026-11-21")])).members == {"1": 30}


async def test_a_project_that_is_not_there_gives_nothing() -> None:
    assert await asked(None, status=404) == NOTHING


@pytest.mark.parametrize("level", ["private", "disabled", None])
async def test_a_repository_that_only_members_reach(level: object) -> None:
    assert (await asked({**PROJECT, "repository_access_level": level}, [])).visibility == "private"
    assert (await asked({**PROJECT, "repository_access_level": "enabled"}, [])).visibility == "internal"


@pytest.mark.parametrize(
    ("project", "why"),
    [
        ([], "no number"),
        ({**PROJECT, "id": "20"}, "no number"),
        ({**PROJECT, "path_with_namespace": "team/renamed"}, "another path"),
        ({**PROJECT, "visibility": "secret"}, "no visibility"),
        (httpx.ConnectError("x"), "ConnectError"),
        (httpx.ReadTimeout("x"), "ReadTimeout"),
    ],
)
async def test_answers_that_are_none(project: object, why: str) -> None:
    with pytest.raises(Unavailable, match=f"team/forecast: .*{why}"):
        await asked(project, [])


@pytest.mark.parametrize("status", [301, 302, 401, 403, 429, 500, 503])
async def test_other_statuses(status: int) -> None:
    with pytest.raises(Unavailable, match=f"team/forecast: status {status}"):
        await asked(None, status=status)


@pytest.mark.parametrize(
    "page",
    [
        {},
        [[]],
        [{"id": 1}],
        [{"id": "1", "access_level": 30}],
        [member(1, expires_at="soon")],
        [{**member(1), "id": True}],
    ],
)
async def test_members_that_are_none(page: object) -> None:
    with pytest.raises(Unavailable):
        await asked(PROJECT, page)


async def test_too_many_members() -> None:
    with pytest.raises(Unavailable, match="10000 members"):
        await asked(PROJECT, *([member(user) for user in range(100)] for _ in range(100)))


async def test_a_long_answer() -> None:
    with pytest.raises(Unavailable, match="longer than 1 MiB"):
        await asked({**PROJECT, "description": "x" * (1 << 20)}, [])
