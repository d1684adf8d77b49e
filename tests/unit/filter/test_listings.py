"""Searches: what MLflow is asked, and what is left of what it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.unit.filter.server import API, Server

Names = dict[str, list[str]]
"""By project, as MLflow would find them."""


class Searched(Server):
    """Pages of two, by conditions of the form `name LIKE 'PROJECT/%'`."""

    def __init__(self, key: str, found: Names) -> None:
        super().__init__()
        self.key, self.found = key, found
        self.asked: list[dict[str, Any]] = []

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        asked = json.loads(body) if body else dict(request.url.params)
        self.asked.append(asked)
        project = asked["filter"].removeprefix("name LIKE '").partition("/")[0].partition(".")[0]
        names, at = self.found.get(project, []), int(asked.get("page_token") or 0)
        until = at + min(int(asked["max_results"]), 2)
        page = {self.key: [{"name": name} for name in names[at:until]]}
        answer = {**page, "next_page_token": str(until)} if until < len(names) else page
        content = json.dumps(answer).encode()
        return httpx.Response(200, stream=httpx.ByteStream(content))

    async def search(self, roles: Sequence[str], **asked: object) -> dict[str, Any]:
        answer = await self.call("POST", f"{API}/experiments/search", roles, json=asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


READS = ["mlflow:b:read", "mlflow:a:read", "mlflow:c:update"]


@pytest.fixture
def searched() -> Searched:
    return Searched("experiments", {"a": ["a/1", "a/2", "a/3"], "b": ["b/1"], "c": ["c/1"]})


def names(page: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in page["experiments"]]


async def test_mlflow_is_asked_for_one_readable_project_at_a_time(searched: Searched) -> None:
    page = await searched.search(READS, filter="tags.x = 'y'", order_by=["name"], max_results=50)
    assert (names(page), page["next_page_token"]) == (["a/1", "a/2"], "a.2")
    [asked] = searched.asked
    assert asked["filter"] == "name LIKE 'a/%' AND tags.x = 'y'"
    assert (asked["order_by"], asked["max_results"]) == (["name"], 50)


async def test_pages_go_on_to_the_next_project(searched: Searched) -> None:
    found, token = [], ""
    for _ in range(3):
        page = await searched.search(READS, page_token=token)
        found.append(names(page))
        token = page.get("next_page_token", "")
    assert found == [["a/1", "a/2"], ["a/3", "b/1"], ["a/1", "a/2"]]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
async def test_a_page_is_as_long_as_was_asked_for(searched: Searched, most: int) -> None:
    found, token, pages = [], "", 0
    while token or not pages:
        page = await searched.search(READS, max_results=most, page_token=token)
        assert len(names(page)) <= most
        found += names(page)
        token, pages = page.get("next_page_token", ""), pages + 1
    assert found == ["a/1", "a/2", "a/3", "b/1"]


async def test_a_search_that_finds_nothing_says_nothing_of_other_projects(searched: Searched) -> None:
    """The same page whether there is something elsewhere or not."""
    before = await searched.search(["mlflow:d:read"], max_results=1, filter="name LIKE 'c/%'")
    searched.found = {}
    assert await searched.search(["mlflow:d:read"], max_results=1, filter="name LIKE 'c/%'") == before
    assert before == {"experiments": []}


async def test_who_reads_nothing_asks_nothing(searched: Searched) -> None:
    assert await searched.search(["infer", "mlflow:a:update"]) == {"experiments": []}
    assert searched.asked == []


async def test_what_mlflow_should_not_have_found_is_left_out(searched: Searched) -> None:
    """Such as by a database that compares names without case, or a filter that it reads differently."""
    searched.found = {"a": ["a/1", "A/2", "ab/1", "b/1", "a", "a/"]}
    token = ""
    for expected in (["a/1"], [], []):
        page = await searched.search(["mlflow:a:read"], page_token=token)
        assert names(page) == expected
        token = page.get("next_page_token", "")
    assert token == ""


async def test_who_reads_everything_gets_all_that_has_a_project(searched: Searched) -> None:
    searched.found = {"": ["a/1", "Default", "c/1"]}
    page = await searched.search(["mlflow:*:read"])
    assert (names(page), page["next_page_token"]) == (["a/1"], "*.2")
    assert searched.asked[0]["filter"] == ""
    assert names(await searched.search(["mlflow:*:read"], page_token="*.2")) == ["c/1"]


async def test_many_projects_without_anything_take_several_pages(searched: Searched) -> None:
    roles = [f"mlflow:p{number:02}:read" for number in range(40)]
    page = await searched.search(roles)
    assert (names(page), page["next_page_token"], len(searched.asked)) == ([], "p32.", 32)
    assert await searched.search(roles, page_token="p32.") == {"experiments": []}


@pytest.mark.parametrize(
    "asked",
    [
        {"page_token": "c.0"},
        {"page_token": "*.0"},
        {"page_token": "0"},
        {"page_token": ["a"]},
        {"max_results": -1},
        {"max_results": "many"},
        {"max_results": 10**12},
        {"max_results": True},
        {"max_results": 1.5},
        {"filter": {"a": 1}},
    ],
)
async def test_what_is_no_search_is_refused(searched: Searched, asked: dict[str, Any]) -> None:
    answer = await searched.call("POST", f"{API}/experiments/search", READS, json=asked)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert searched.asked == []


async def test_models_are_searched_by_query() -> None:
    searched = Searched("registered_models", {"a": ["a.1"]})
    query = {"filter": "tag.x != 'y'", "max_results": "100000", "order_by": "name"}
    answer = await searched.call("GET", f"{API}/registered-models/search", ["mlflow:a:read"], params=query)
    assert answer.json() == {"registered_models": [{"name": "a.1"}]}
    [asked] = searched.asked
    assert asked == {"order_by": "name", "max_results": "1000", "filter": "name LIKE 'a.%' AND tag.x != 'y'"}


async def test_what_mlflow_says_of_a_filter_is_passed_on(server: Server) -> None:
    server.answer = 400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such key"}', {}
    answer = await server.call("POST", f"{API}/experiments/search", json={"filter": "x"})
    assert answer.status_code == 400
    assert answer.json() == {"error_code": "INVALID_PARAMETER_VALUE", "message": "Tollgate: MLflow says: no such key"}
    server.answer = 500, b'{"error_code": "INTERNAL_ERROR", "message": "Traceback"}', {}
    answer = await server.call("POST", f"{API}/experiments/search", json={"filter": "x"})
    assert (answer.status_code, "Traceback" in answer.text) == (502, False)
