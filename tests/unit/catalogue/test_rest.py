"""The STAC API as HTTP: valid documents, what each caller finds, and what nobody can tell from nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.policy.model import Policy
from tests.stac.validation import complaints, complaints_of_page
from tests.unit.catalogue.test_repository import promoted
from tests.unit.catalogue.world import BASE, POLICY, bearer, catalogue, client, filled, model
from tests.unit.policy.writing import loaded

ITEMS = "/stac/collections/ai-model/items"


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, json.dumps(POLICY))


@pytest.fixture
async def http(policy: Policy, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    directory = tmp_path / "repository"
    directory.mkdir()
    async with client(catalogue(policy, filled(directory))) as http:
        yield http


async def listed(http: httpx.AsyncClient, name: str = "") -> list[str]:
    answer = await http.get(ITEMS, headers=bearer(name) if name else {})
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert page["numberMatched"] == page["numberReturned"] == len(page["features"])
    return [feature["id"] for feature in page["features"]]


async def test_everybody_finds_what_they_may_call(http: httpx.AsyncClient) -> None:
    assert await listed(http, "alice") == ["blind", "cancer", "parted", "sentiment"]
    assert await listed(http, "boss") == ["blind", "cancer", "parted", "secret", "sentiment"]
    assert await listed(http) == []


async def test_every_document_is_valid_stac(http: httpx.AsyncClient) -> None:
    root = (await http.get("/stac")).json()
    assert complaints(root) == []
    for found in (await http.get("/stac/collections")).json()["collections"]:
        assert complaints(found) == []
    page = (await http.get("/stac/search", headers=bearer("boss"))).json()
    assert page["numberMatched"] == 5
    assert [*complaints_of_page(page)] == []
    newer = json.loads(json.dumps(page).replace("mlm/v1.4.0", "mlm/v1.5.2"))
    assert [*complaints_of_page(newer)] == []
    broken = json.loads(json.dumps(page).replace('"mlm:tasks"', '"mlm:other"'))
    assert [*complaints_of_page(broken)] != [], "or it validates nothing"


async def test_an_item_says_what_the_model_is(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{ITEMS}/sentiment", headers=bearer("alice"))
    item = answer.json()
    assert answer.headers["content-type"] == "application/geo+json"
    assert answer.headers["cache-control"] == "private, no-store"
    assert "authorization" in answer.headers["vary"]
    assert (item["geometry"], "bbox" in item) == (None, False)
    said = item["properties"]
    assert said["mlm:input"][0]["input"] == {"shape": [-1, 1], "dim_order": ["batch", "dim-a"], "data_type": "other"}
    assert (said["mlm:framework"], said["ml-model:prediction_type"]) == ("scikit-learn", "classification")
    assert (said["mlflow:run_id"], said["tollgate:versions"]) == ("0123456789abcdef0123456789abcdef", ["1"])
    links = {link["rel"]: link["href"] for link in item["links"]}
    assert links["self"] == f"{BASE}/collections/ai-model/items/sentiment"
    assert links["derived_from"] == "https://data.example/reviews"
    assert item["assets"]["inference"]["href"] == "https://models.example/v2/models/sentiment/infer"
    assert "elsewhere" not in answer.text, "the header Host leads nobody anywhere"


async def test_who_may_call_but_not_see_finds_no_description(http: httpx.AsyncClient) -> None:
    item = (await http.get(f"{ITEMS}/blind", headers=bearer("alice"))).json()
    assert item["stac_extensions"] == []
    assert set(item["properties"]) == {"title", "datetime", "updated", "tollgate:versions"}
    assert set(item["assets"]) == {"inference"}
    seen = (await http.get(f"{ITEMS}/blind", headers=bearer("boss"))).json()
    assert "mlm:input" in seen["properties"]


async def test_versions_are_those_that_the_caller_may_call(http: httpx.AsyncClient) -> None:
    for name, versions in (("alice", ["1"]), ("boss", ["1", "2"])):
        item = (await http.get(f"{ITEMS}/parted", headers=bearer(name))).json()
        assert item["properties"]["tollgate:versions"] == versions


@pytest.mark.parametrize("name", ["", "alice"])
async def test_what_is_hidden_is_as_what_does_not_exist(http: httpx.AsyncClient, name: str) -> None:
    """`secret` is another's, `stranger` is not in the policy, `gone` not in the repository, `zzzzzz` nowhere."""
    answers = set()
    for hidden in ("secret", "stranger", "gone", "zzzzzz"):
        answer = await http.get(f"{ITEMS}/{hidden}", headers=bearer(name) if name else {})
        answers.add((answer.status_code, answer.content, tuple(answer.headers.multi_items())))
        for path in (f"/stac/search?ids={hidden}", f"/stac/search?q={hidden}"):
            found = (await http.get(path, headers=bearer(name) if name else {})).json()
            assert (found["numberMatched"], found["features"]) == (0, [])
    ((status, content, _),) = answers
    assert (status, json.loads(content)["code"]) == (404, "not_found")


async def test_words_of_a_hidden_description_find_nothing(
    http: httpx.AsyncClient, policy: Policy, tmp_path: Path
) -> None:
    model(tmp_path / "repository", "canary-blind", card="# Hedgehogs\n")
    (tmp_path / "repository/blind/README.md").write_text("# Hedgehogs\n")
    async with client(catalogue(policy, tmp_path / "repository")) as fresh:
        for name, ids in (("alice", ["canary-blind"]), ("boss", ["blind", "canary-blind"])):
            page = (await fresh.get("/stac/search?q=hedgehog", headers=bearer(name))).json()
            assert [each["id"] for each in page["features"]] == ids


async def test_a_token_that_is_not_accepted_is_refused(http: httpx.AsyncClient) -> None:
    for path in ("/stac/search", ITEMS, f"{ITEMS}/sentiment"):
        answer = await http.get(path, headers=bearer("mallory"))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    twice = [("authorization", "Bearer alice"), ("authorization", "Bearer boss")]
    assert (await http.get("/stac/search", headers=twice)).status_code == 401


async def test_pages_over_both_methods(http: httpx.AsyncClient) -> None:
    seen, url, headers = [], "/stac/search?limit=2&sortby=-id&collections=ai-model", bearer("boss")
    while url:
        page = (await http.get(url, headers=headers)).json()
        seen += [each["id"] for each in page["features"]]
        following = [link for link in page["links"] if link["rel"] == "next"]
        url = following[0]["href"].replace("https://models.example/tollgate/api", "") if following else ""
    posted, body = [], {"limit": 2, "sortby": [{"field": "id", "direction": "desc"}]}
    while body:
        page = (await http.post("/stac/search", json=body, headers=headers)).json()
        posted += [each["id"] for each in page["features"]]
        body = next((link["body"] for link in page["links"] if link["rel"] == "next"), {})
    assert seen == posted == ["sentiment", "secret", "parted", "cancer", "blind"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("bbox=1,2", "bbox"),
        ("datetime=yesterday", "datetime"),
        ("sortby=secret", "sortby"),
        ("cursor=x", "cursor"),
        ("filter=1", "filter"),
        ("bbox=0,0,1,1&intersects={}", "intersects"),
        ("intersects={}", "intersects"),
        ("ids=" + "x," * 3000, "ids"),
    ],
)
async def test_what_is_wrong_with_a_search_is_said(http: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await http.get(f"/stac/search?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"limit": 0},
        {"query": {}},
        {"bbox": [1, 2]},
        {"bbox": [0, 0, 1, 1], "intersects": {"type": "Point", "coordinates": [0, 0]}},
        {"intersects": {"type": "Cube"}},
        {"ids": ["x"] * 101},
        {"ids": ["x" * 256]},
        {"q": 1},
        {"sortby": [{"field": "id", "direction": "up"}]},
    ],
)
async def test_what_is_wrong_with_a_body_is_said(http: httpx.AsyncClient, body: object) -> None:
    answer = await http.post("/stac/search", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), answer.text


async def test_web_pages_may_read_it_with_a_token_and_nothing_is_of_a_cookie(http: httpx.AsyncClient) -> None:
    asks = {"origin": "https://browser.example", "access-control-request-method": "GET"}
    preflight = await http.options("/stac/search", headers={**asks, "access-control-request-headers": "authorization"})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "*")
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    answer = await http.get("/stac/search", headers={**bearer("mallory"), "origin": "https://browser.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "*")
    cookies = {"origin": "https://browser.example", "cookie": "tollgate=session; __Host-tollgate=session"}
    assert (await http.get("/stac/search", headers=cookies)).json()["numberMatched"] == 0


async def test_without_a_repository_the_policy_names_the_models(policy: Policy) -> None:
    async with client(Catalogue(policy, None)) as http:
        assert await listed(http, "alice") == ["blind", "gone", "parted", "sentiment"]
        assert [*complaints_of_page((await http.get(ITEMS, headers=bearer("alice"))).json())] == []


async def test_who_asks_for_more_than_a_page_has_gets_a_page(http: httpx.AsyncClient) -> None:
    for answer in (
        await http.get("/stac/search?limit=1000000", headers=bearer("boss")),
        await http.post("/stac/search", json={"limit": 1_000_000}, headers=bearer("boss")),
    ):
        assert (answer.status_code, answer.json()["numberReturned"]) == (200, 5)


async def test_items_are_those_of_the_collection_in_the_path(http: httpx.AsyncClient) -> None:
    assert (await http.get(f"{ITEMS}?collections=ai-model", headers=bearer("alice"))).json()["numberMatched"] == 4
    answer = await http.get(f"{ITEMS}?collections=dataset")
    assert (answer.status_code, answer.json()["field"]) == (400, "collections")


@pytest.mark.parametrize(
    ("collections", "status", "found"),
    [("ai-model", 200, 4), ("dataset", 200, 0), ("", 400, None), ("x" * 256, 400, None)],
)
async def test_one_collection_may_stand_without_a_list(
    http: httpx.AsyncClient, collections: str, status: int, found: int | None
) -> None:
    answer = await http.post("/stac/search", json={"collections": collections}, headers=bearer("alice"))
    assert (answer.status_code, answer.json().get("numberMatched")) == (status, found)


async def test_a_repository_that_is_away_is_503(policy: Policy, tmp_path: Path) -> None:
    async with client(catalogue(policy, tmp_path / "absent")) as http:
        answer = await http.get(ITEMS, headers=bearer("alice"))
        assert (answer.status_code, "absent" in answer.text) == (503, False)


async def test_other_paths_and_methods_are_not_here(http: httpx.AsyncClient) -> None:
    for path in ("/stac/nothing", "/nothing", "/stac/collections/nothing", "/stac/collections/nothing/items"):
        assert (await http.get(path)).status_code == 404, path
    answer = await http.delete("/stac/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    described = await http.get("/stac/api")
    assert described.headers["content-type"].startswith("application/vnd.oai.openapi+json")
    assert "/stac/search" in described.json()["paths"]


async def test_the_origin_of_a_version_is_for_who_may_call_it(policy: Policy, tmp_path: Path) -> None:
    directory = tmp_path / "repository"
    directory.mkdir()
    filled(directory)
    for version in ("1", "2"):
        promoted(directory / "parted" / version, f'{{"registered": "parted {version}", "run": "r{version}"}}')
    promoted(directory / "blind" / "1")
    async with client(catalogue(policy, directory)) as http:
        for name, versions in (("alice", ["1"]), ("boss", ["1", "2"])):
            item = (await http.get(f"{ITEMS}/parted", headers=bearer(name))).json()
            assert [each["version"] for each in item["properties"]["tollgate:origins"]] == versions
            assert complaints(item) == []
        assert "origins" not in (await http.get(f"{ITEMS}/blind", headers=bearer("alice"))).text
