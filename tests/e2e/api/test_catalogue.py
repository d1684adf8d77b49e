"""Publishing over real stores: who finds what, what a version and its runs keep, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.publication import Publication
from ext_authz.catalogue.published import PublishedEntries
from ext_authz.catalogue.publishing import Handover, Publishing
from ext_authz.catalogue.using import Using
from ext_authz.clock import SystemClock
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Pool
from ext_authz.tokens.model import Actor
from tests.e2e.api.world import BOB, World, admin, alice, bob
from tests.postgres_roles import role
from tests.stac.validation import complaints, complaints_of_page
from tests.unit.catalogue.world import POLICY, identity
from tests.unit.policy.writing import loaded

PAGE = Path(__file__).parents[3] / "docs/catalogue.md"

ENTRIES, STAC = "/catalogue/entries", "/tollgate/api/stac"
SIZE = {"name": "size", "type": "integer", "default": 256, "minimum": 16, "maximum": 4096}
MODE = {"name": "mode", "type": "string", "required": True, "choices": ["fast", "exact"]}


def document(name: str = "tiles", version: str = "1.0", **more: object) -> dict[str, Any]:
    found = {"collection": "processor", "name": name, "version": version, "accept_terms": "1"}
    about = {"title": "Cuts tiles", "description": "Of an image.\n", "license": "MIT", "keywords": ["image"]}
    return {**found, **about, "parameters": [SIZE, MODE]} | more


def dataset(name: str = "reviews", version: str = "1.0", **more: object) -> dict[str, Any]:
    assets = {"data": {"href": "https://data.example/reviews.parquet", "type": "application/vnd.apache.parquet"}}
    found = document(name, version) | {"collection": "dataset", "assets": assets, "title": "Reviews"} | more
    return {key: value for key, value in found.items() if key != "parameters"}


async def published(world: World, token: str, wanted: dict[str, Any]) -> str:
    """Its path."""
    answer = await world.rest("POST", ENTRIES, token, wanted)
    assert answer.status_code == 201, answer.text
    return f"{ENTRIES}/{wanted['collection']}/{answer.json()['id']}"


async def found(world: World, token: str = "", query: str = "collections=dataset,processor") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = await world.http.get(f"{STAC}/search?{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert page["numberMatched"] == page["numberReturned"] == len(page["features"])
    assert [*complaints_of_page(page)] == []
    return {item["properties"]["title"]: item for item in page["features"]}


async def test_what_is_private_is_the_owners_and_what_is_public_everybodys(world: World) -> None:
    tiles = await published(world, alice(), document())
    reviews = await published(world, alice(), dataset())
    assert set(await found(world, alice())) == {"Cuts tiles", "Reviews"}
    for token in (bob(), admin(), ""):
        assert await found(world, token) == {}
    item = f"{STAC}/collections{reviews.removeprefix(ENTRIES).replace('dataset/', 'dataset/items/')}"
    hidden, missing = await world.http.get(item), await world.http.get(f"{item}x")
    assert (hidden.status_code, hidden.content) == (404, missing.content)
    changed = await world.rest("PATCH", reviews, alice(), {"visibility": "public"}, if_match='"2"')
    assert (changed.status_code, changed.json()["visibility"]) == (200, "public")
    assert set(await found(world, "")) == set(await found(world, bob())) == {"Reviews"}
    assert "tollgate:owner" not in (await found(world))["Reviews"]["properties"], "people are nobody's business"
    said = (await found(world, bob()))["Reviews"]
    assert (said["properties"]["tollgate:owner"], said["properties"]["tollgate:latest"]) == ("alice", "1.0")
    assert said["assets"]["data"] == {**dataset()["assets"]["data"], "roles": ["data"]}
    assert complaints((await world.http.get(item)).json()) == []
    assert (await found(world, alice(), "q=tiles"))["Cuts tiles"]["properties"]["tollgate:parameters"] == [SIZE, MODE]
    assert (await world.rest("GET", tiles, bob())).status_code == 404


async def test_a_version_goes_comes_back_and_is_never_another(world: World) -> None:
    one = await published(world, alice(), dataset())
    assert await published(world, alice(), dataset()) == one, "to repeat it is safe"
    assert (await world.rest("GET", one, alice())).json()["version"] == 2
    other = await world.rest("POST", ENTRIES, alice(), dataset(title="Others"))
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    terms = await world.rest("POST", ENTRIES, alice(), dataset("new", accept_terms="0"))
    assert (terms.status_code, terms.json()["field"]) == (400, "accept_terms")
    await published(world, alice(), dataset(version="1.1", title="Newer"))
    assert set(await found(world, alice())) == {"Newer"}
    gone = await world.rest("POST", f"{one}/versions/1.1/unpublish", alice(), if_match='"3"')
    assert [(each["version"], each["published"]) for each in gone.json()["versions"]] == [("1.1", False), ("1.0", True)]
    assert set(await found(world, alice())) == {"Reviews"}
    late = await world.rest("POST", f"{one}/versions/1.0/unpublish", alice(), if_match='"3"')
    assert late.status_code == 412
    await world.rest("POST", f"{one}/versions/1.0/unpublish", alice())
    assert await found(world, alice()) == {}
    assert (await world.rest("GET", one, alice())).status_code == 200, "its owner still knows of it"
    back = await world.rest("POST", f"{one}/versions/1.1/republish", alice(), dataset(version="1.1", title="Mended"))
    latest = back.json()["versions"][0]
    assert (latest["version"], latest["revision"], latest["published"], latest["terms"]) == ("1.1", 2, True, "1")
    assert set(await found(world, alice())) == {"Mended"}
    held = (await world.rest("GET", f"{one}/versions/1.1", alice())).json()
    assert (held["revision"], held["document"]["title"]) == (2, "Mended")
    log = (await world.rest("GET", f"/audit?object=catalogue:dataset:{one.rpartition('/')[2]}", admin())).json()
    said = [(each["action"].partition(".")[2], each["details"].get("version")) for each in reversed(log["entries"])]
    assert said == [
        *(("published", "1.0"), ("published", "1.1"), ("unpublished", "1.1"), ("unpublished", "1.0")),
        ("republished", "1.1"),
    ]


async def test_a_run_keeps_what_it_had(world: World, database_url: str) -> None:
    tiles = await published(world, alice(), document(visibility="public"))
    runs = f"/catalogue/processors/{tiles.rpartition('/')[2]}/runs"
    run = (await world.rest("POST", runs, bob(), {"parameters": {"mode": "fast"}})).json()
    assert (run["version"], run["revision"], run["parameters"]) == ("1.0", 1, {"size": 256, "mode": "fast"})
    for wrong, said in {
        '{"mode": "slow"}': "none of the choices",
        '{"mode": "fast", "size": 8}': "less than 16",
        '{"mode": "fast", "size": "16"}': "is no integer",
        '{"mode": "fast", "size": true}': "is no integer",
        '{"size": 16}': "is required",
        '{"mode": "fast", "colour": 1}': "no such parameter",
    }.items():
        refused = await world.rest("POST", runs, bob(), {"parameters": json.loads(wrong)})
        assert (refused.status_code, said in refused.json()["detail"]) == (400, True), refused.text
    other = document(parameters=[{**SIZE, "default": 512}])
    assert (await world.rest("POST", f"{tiles}/versions/1.0/republish", alice(), other)).status_code == 200
    assert (await world.rest("GET", f"/catalogue/runs/{run['id']}", bob())).json() == run
    later = (await world.rest("POST", runs, bob(), {"version": "1.0"})).json()
    assert (later["revision"], later["parameters"]) == (2, {"size": 512})
    assert (await world.rest("POST", f"{tiles}/versions/1.0/unpublish", alice())).status_code == 200
    assert (await world.rest("POST", runs, bob(), {})).status_code == 404
    mine = (await world.rest("GET", "/catalogue/runs?limit=1", bob())).json()
    assert [each["id"] for each in mine["runs"]] == [later["id"]]
    rest = (await world.rest("GET", f"/catalogue/runs?cursor={mine['cursor']}", bob())).json()
    assert (rest["runs"], rest["cursor"]) == ([run], "")
    assert (await world.rest("DELETE", f"/catalogue/runs/{run['id']}", bob())).status_code == 204
    assert (await world.rest("GET", f"/catalogue/runs/{run['id']}", bob())).status_code == 404
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM catalogue_runs").fetchone() == (1,)


async def test_stars_are_one_of_each_and_of_what_one_sees(world: World) -> None:
    reviews = await published(world, alice(), dataset(visibility="public"))
    both = await asyncio.gather(*(world.rest("PUT", f"{reviews}/star", bob()) for _ in range(4)))
    assert {answer.json()["stars"] for answer in both} == {1}
    assert (await world.rest("PUT", f"{reviews}/star", alice())).json() == {"stars": 2}
    assert (await found(world))["Reviews"]["properties"]["tollgate:stars"] == 2
    assert (await world.rest("DELETE", f"{reviews}/star", bob())).json() == {"stars": 1}
    assert (await world.rest("DELETE", f"{reviews}/star", bob())).json() == {"stars": 1}
    model = f"{ENTRIES}/ai-model/sentiment/star"
    assert (await world.rest("PUT", model, bob())).json() == {"stars": 1}
    assert (await world.rest("GET", f"{ENTRIES}/ai-model/sentiment", admin())).status_code == 404, "nobody published it"
    await world.rest("PATCH", reviews, alice(), {"visibility": "private"})
    assert (await world.rest("DELETE", f"{reviews}/star", bob())).status_code == 404


async def test_maintainers_publish_and_only_the_owner_says_who_they_are(world: World) -> None:
    reviews = await published(world, alice(groups=["/team"]), dataset())
    again = {**dataset(version="2.0"), "title": "By Bob"}
    assert (await world.rest("POST", f"{reviews}/versions", bob(), again)).status_code == 404
    assert (await world.rest("PATCH", reviews, alice(), {"maintainers": [BOB]})).status_code == 200
    assert (await world.rest("POST", f"{reviews}/versions", bob(), again)).status_code == 201
    assert [each["id"] for each in (await world.rest("GET", ENTRIES, bob())).json()["entries"]] == [
        reviews.rpartition("/")[2]
    ]
    assert (await world.rest("PATCH", reviews, bob(), {"visibility": "public"})).status_code == 403
    assert (await world.rest("PATCH", reviews, alice(), {"maintainers": []})).status_code == 200
    assert (await world.rest("GET", reviews, bob())).status_code == 404
    assert (await world.rest("PATCH", reviews, alice(), {"group": "/other"})).status_code == 403
    in_team = alice(groups=["/team"])
    assert (await world.rest("PATCH", reviews, in_team, {"group": "/team"})).status_code == 200
    assert (await world.rest("GET", reviews, bob(groups=["/team"]))).status_code == 200
    assert (await world.rest("GET", reviews, bob())).status_code == 404
    assert (await world.rest("GET", reviews, admin())).status_code == 200


async def test_a_model_is_published_by_who_administers_it_and_seen_by_who_may_call_it(world: World) -> None:
    wanted = document("secret", "1", collection="ai-model", visibility="public", parameters=[], title="The secret one")
    assert (await world.rest("POST", ENTRIES, bob(), wanted)).status_code == 404
    await published(world, admin(), wanted)
    assert set(await found(world, bob(), "collections=ai-model")) == {"sentiment"}
    assert await found(world, "", "collections=ai-model") == {}
    assert set(await found(world, admin(), "collections=ai-model")) == {"sentiment", "The secret one"}
    assert (await world.rest("PUT", f"{ENTRIES}/ai-model/secret/star", bob())).status_code == 404


async def test_an_api_token_publishes_with_the_scope_and_sees_nothing_private_without_it(world: World) -> None:
    await published(world, alice(), dataset())
    tokens = {}
    for scope in ("tollgate:catalogue", "tollgate:billing"):
        wanted = {"name": scope.replace(":", "-"), "lifetime": 3600, "scopes": [scope]}
        tokens[scope] = (await world.rest("POST", "/grants", alice(), wanted)).json()["token"]
    assert await found(world, tokens["tollgate:billing"]) == {}
    assert set(await found(world, tokens["tollgate:catalogue"])) == {"Reviews"}
    await published(world, tokens["tollgate:catalogue"], dataset(version="3", title="By a program"))
    assert set(await found(world, alice())) == {"By a program"}


async def test_everybody_has_room_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_authz.catalogue.publishing.MOST_OF_OWNER", 1)
    monkeypatch.setattr("ext_authz.catalogue.publishing.MOST_VERSIONS", 2)
    monkeypatch.setattr("ext_authz.catalogue.publishing.MOST_REVISIONS", 1)
    one = await published(world, alice(), dataset())
    tried = await asyncio.gather(*(world.rest("POST", ENTRIES, bob(), dataset(f"d{number}")) for number in range(4)))
    assert sorted(answer.status_code for answer in tried) == [201, 409, 409, 409], "at the same time, too"
    await published(world, alice(), dataset(version="2"))
    for answer in (
        await world.rest("POST", ENTRIES, alice(), dataset("another")),
        await world.rest("POST", ENTRIES, alice(), dataset(version="3")),
        await world.rest("POST", f"{one}/versions/2/republish", alice(), dataset(version="2", title="x")),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "too_many"), answer.text


async def test_two_owners_may_use_one_name_and_learn_nothing_of_each_other(world: World) -> None:
    first, second = await published(world, alice(), dataset()), await published(world, bob(), dataset())
    assert first != second
    answer: httpx.Response = await world.rest("GET", ENTRIES, bob())
    assert first.rpartition("/")[2] not in answer.text


async def test_the_privileges_of_the_page_are_enough(database_url: str, tmp_path: Path) -> None:
    await migrate(database_url)
    grants = re.findall(r"^GRANT (.*) ON (.*) TO tollgate_console;$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(grants) == 4
    given = [f"GRANT {rights} ON {tables} TO {{role}}" for rights, tables in grants]
    with role(database_url, *given, "GRANT INSERT ON audit_log TO {role}") as url:
        pool = Pool(url, timeout=20, size=1)
        await pool.open()
        try:
            found = Catalogue(loaded(tmp_path, json.dumps(POLICY)), None, PublishedEntries(pool.run))
            publishing, using = Publishing(pool, found, SystemClock(), "1"), Using(pool, found, SystemClock())
            await _all_that_there_is_to_do(publishing, using)
        finally:
            await pool.close()


async def _all_that_there_is_to_do(publishing: Publishing, using: Using) -> None:
    actor = Actor(via="rest", name="alice", issuer="kc", subject="alice", identity=identity())
    wanted = Publication.model_validate(document())
    key = (await publishing.publish(actor, wanted)).entry.key
    run = await using.record(actor, key[1], "", {"mode": "fast"})
    assert (await using.star(actor, key, given=True), await using.star(actor, key, given=False)) == (1, 0)
    await using.forget(actor, (await using.run(actor, run.id)).id)
    await publishing.hand_over(actor, key, Handover(visibility="public"), None)
    await publishing.unpublish(actor, key, "1.0", None)
    await publishing.republish(actor, key, wanted, None)
    assert [each.id for each in await publishing.mine(actor, everybody=False, after=("", ""), limit=2)] == [key[1]]
