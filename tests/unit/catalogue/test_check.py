"""What clients of SharingHub ask: whether somebody may use a model, and how much."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.unit.catalogue.world import POLICY, bearer, catalogue, client, filled
from tests.unit.policy.writing import loaded


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    directory = tmp_path / "repository"
    directory.mkdir()
    async with client(catalogue(loaded(tmp_path, json.dumps(POLICY)), filled(directory))) as http:
        yield http


@pytest.mark.parametrize(
    ("name", "model", "level"),
    [
        ("alice", "sentiment", 2),
        ("boss", "sentiment", 4),
        ("alice", "cancer", 2),
        ("boss", "cancer", 2),
        ("alice", "secret", 0),
        ("boss", "secret", 2),
        ("boss", "stranger", 0),
    ],
)
async def test_everybody_has_the_level_of_their_rights(
    http: httpx.AsyncClient, name: str, model: str, level: int
) -> None:
    bare = await http.get(f"/check/{model}", headers=bearer(name))
    assert (bare.status_code, bare.content == b"") == ((200, True) if level else (404, False))
    answer = await http.get(f"/check/{model}?info=true", headers={"x-gitlab-token": name})
    assert answer.status_code == bare.status_code
    if level:
        found = answer.json()
        assert found.pop("id") in range(1, 2**48)
        assert found == {"name": model, "path": model, "access_level": level, "categories": ["ai-model"]}
        assert (await http.get(f"/check/{model}?info=true", headers=bearer("boss"))).json()["id"] == answer.json()["id"]


async def test_what_is_hidden_is_as_what_does_not_exist(http: httpx.AsyncClient) -> None:
    answers = set()
    for path in ("secret", "stranger", "gone", "zzzzzz", "group/project", "%2e%2e"):
        answer = await http.get(f"/check/{path}?info=true", headers=bearer("alice"))
        answers.add((answer.status_code, answer.content, tuple(answer.headers.multi_items())))
    ((status, _, _),) = answers
    assert status == 404


async def test_without_a_token_that_is_accepted_nobody_learns_anything(http: httpx.AsyncClient) -> None:
    for path in ("sentiment", "zzzzzz", ""):
        for headers in ({}, bearer("mallory"), {"x-gitlab-token": "mallory"}, {"cookie": "tollgate=x"}):
            answer = await http.get(f"/check/{path}", headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert answer.headers["www-authenticate"].startswith("Bearer")
    both = bearer("alice") | {"x-gitlab-token": "alice"}
    assert (await http.get("/check/sentiment", headers=both)).status_code == 401, "one credential, in one place"
    assert (await http.get("/check/sentiment?gitlab_token=alice")).status_code in (400, 401)


@pytest.mark.parametrize("query", ["", "?info=maybe", "?gitlab_token=alice"])
async def test_what_is_wrong_is_said(http: httpx.AsyncClient, query: str) -> None:
    path = f"/check/sentiment{query}" if query else "/check/"
    assert (await http.get(path, headers=bearer("alice"))).status_code == 400


async def test_whoever_is_somebody_is_told_so_and_no_more(http: httpx.AsyncClient) -> None:
    answer = await http.get("/auth/info", headers={"x-gitlab-token": "alice"})
    assert (answer.status_code, answer.json()) == (200, {"authenticated": True})
    for headers in ({}, {"x-gitlab-token": "mallory"}):
        assert (await http.get("/auth/info", headers=headers)).status_code == 401


async def test_the_catalogue_takes_the_header_too(http: httpx.AsyncClient) -> None:
    page = (await http.get("/stac/search", headers={"x-gitlab-token": "alice"})).json()
    assert [item["id"] for item in page["features"]] == ["blind", "cancer", "parted", "sentiment"]
    assert (await http.get("/stac/search", headers={"x-gitlab-token": "mallory"})).status_code == 401
