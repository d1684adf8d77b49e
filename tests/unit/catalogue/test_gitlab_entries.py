"""Projects of a GitLab in the catalogue: who finds them, until when, and as what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from ext_authz.catalogue import gitlab_entries as module
from ext_authz.catalogue import stac
from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.entry import Access
from ext_authz.catalogue.gitlab_entries import GitlabEntries
from ext_authz.catalogue.using import Using
from ext_authz.clock import Clock
from ext_authz.db.postgres import Pool
from ext_authz.decision import Principal
from ext_authz.identity.identity import Identity
from ext_authz.policy.issuers import Gitlab, Issuer, ProjectRights
from ext_authz.policy.model import Policy
from ext_authz.tokens.model import Actor, NotDone, Why
from tests.stac.validation import complaints
from tests.unit.catalogue.world import PLACES, POLICY, bearer, client
from tests.unit.policy.writing import loaded

STALE = 600
SUM = "ab" * 32
RIGHTS = ProjectRights(
    projects={},
    levels={"read": 20},
    visible={"internal": frozenset({"read"}), "public": frozenset({"read"})},
    stale=STALE,
    catalogue=frozenset({"team"}),
)


def issuer(name: str = "gitlab", rights: ProjectRights = RIGHTS) -> Issuer:
    url = f"https://{name}.example"
    gitlab = Gitlab(frozenset({"application"}), rights=rights)
    return Issuer(name=name, issuer=url, jwks_url=f"{url}/keys", audiences=frozenset({"m"}), gitlab=gitlab)


def caller(subject: str, issuer_name: str = "gitlab", grant: str = "") -> Identity:
    principal = Principal(f"https://{issuer_name}.example", subject, "web", (), "t")
    made = Identity(principal, issuer_name, "", 1, 2.0, ("m",), frozenset(), frozenset())
    return replace(made, grant=grant)


CALLERS: Mapping[str, Identity | None] = {
    "nobody": None,
    "reporter": caller("42"),
    "guest": caller("7"),
    "stranger": caller("4"),
    "elsewhere": caller("42", "lab"),
    "job": caller("project_path:team/a:ref_type:branch:ref:main"),
    "api token": caller("42", grant="grant-1"),
}
EVERYBODY = set(CALLERS)
SEEN = {"private": {"reporter"}, "internal": {"reporter", "guest", "stranger"}, "public": EVERYBODY}


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, json.dumps(POLICY))


class Table:
    """What is in Postgres, asked as psycopg is."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], list[Any]] = {}
        self.ages: dict[tuple[str, int], float] = {}
        self.bodies = 0
        self._found: list[Any] = []

    def put(
        self,
        visibility: str = "public",
        number: int = 20,
        *,
        name: str = "gitlab",
        age: float = 1,
        path: str = "team/forecast",
        collections: tuple[str, ...] = ("ai-model",),
        commit: str = "c" * 40,
        content: Mapping[str, Any] | None = None,
        members: Mapping[str, int] | None = None,
    ) -> None:
        about = {"name": "Forecast", "description": "Of GitLab", "branch": "main", "stars": 3}
        of = {"42": 20, "7": 10} if members is None else members
        row = [path, visibility, of, [*collections], {**about, "at": "2026-11-20T13:00:00Z"}, commit]
        self.rows[name, number] = [str(row), *row, content or {}]
        self.ages[name, number] = age

    async def read(self, work: Any) -> Any:  # noqa: ANN401 - as `db.postgres.Read`
        return await work(self)

    async def execute(self, query: str, values: Any) -> Table:  # noqa: ANN401 - of psycopg
        if query == module._HEADS:
            self._found = [
                (*key, row[0], self.ages[key]) for key, row in self.rows.items() if key[0] in values["issuers"]
            ]
        else:
            self.bodies += 1
            keys = zip(values["issuers"], values["numbers"], strict=True)
            self._found = [(*key, *self.rows[key]) for key in keys if key in self.rows]
        return self

    async def fetchall(self) -> list[Any]:
        return self._found


class World:
    def __init__(self, policy: Policy, *issuers: Issuer) -> None:
        self.table = Table()
        entries = GitlabEntries(issuers or (issuer(),), self.table.read)
        self.catalogue = Catalogue(policy, None, None, entries)

    async def seen(self, who: str) -> list[str]:
        return [each.id for each in await self.catalogue.entries(CALLERS[who]) if each.gitlab]


@pytest.mark.parametrize("visibility", SEEN)
async def test_who_finds_a_project(policy: Policy, visibility: str) -> None:
    world = World(policy)
    world.table.put(visibility)
    assert {who for who in CALLERS if await world.seen(who)} == SEEN[visibility]
    for who in CALLERS:
        entry = await world.catalogue.entry(CALLERS[who], "ai-model", "gitlab~20")
        assert (entry is not None) == (who in SEEN[visibility])


async def test_what_the_policy_says_of_visibility_and_levels_counts(policy: Policy) -> None:
    strict = msgspec.structs.replace(
        RIGHTS, levels={"read": 50}, visible={"internal": frozenset(), "public": frozenset({"call"})}
    )
    world = World(policy, issuer(rights=strict))
    for number, visibility in enumerate(SEEN):
        world.table.put(visibility, number)
    assert not [who for who in CALLERS if await world.seen(who)]


@pytest.mark.parametrize("visibility", SEEN)
async def test_an_answer_that_is_too_old_or_of_the_future_shows_nothing(policy: Policy, visibility: str) -> None:
    world = World(policy)
    world.table.put(visibility, age=STALE - 1)
    assert await world.seen("reporter") == ["gitlab~20"]
    for age in (STALE, -1):
        world.table.put(visibility, age=age)
        assert not [who for who in CALLERS if await world.seen(who)]


async def test_a_change_is_seen_at_once_and_read_once(policy: Policy) -> None:
    world = World(policy)
    world.table.put("public")
    assert await world.seen("nobody") == await world.seen("stranger") == ["gitlab~20"]
    assert world.table.bodies == 1
    world.table.put("private")
    assert (await world.seen("nobody"), await world.seen("reporter")) == ([], ["gitlab~20"])
    world.table.rows.clear()
    assert await world.seen("reporter") == []


async def test_of_a_gitlab_that_has_none_in_the_catalogue_nothing_is_read(policy: Policy) -> None:
    world = World(policy, issuer("lab", msgspec.structs.replace(RIGHTS, catalogue=frozenset())), issuer())
    world.table.put("public", name="lab")
    world.table.put("public", 21)
    assert await world.seen("nobody") == ["gitlab~21"]


CONTENT = {
    "card": {
        "title": "Forecasts",
        "description": "What comes",
        "license": "Apache-2.0",
        "keywords": ["weather"],
        "sources": ["https://data.example/x"],
    },
    "files": [{"path": "data/Weights 1#.onnx", "sha256": SUM, "size": 7}],
}


@pytest.mark.parametrize("collection", ["ai-model", "dataset", "processor"])
@pytest.mark.parametrize("content", [{}, CONTENT], ids=["empty", "whole"])
async def test_an_item_of_stac(policy: Policy, collection: str, content: Mapping[str, Any]) -> None:
    world = World(policy)
    world.table.put("internal", collections=(collection,), content=content)
    entry = await world.catalogue.entry(CALLERS["stranger"], collection, "gitlab~20")
    assert entry is not None
    item = msgspec.json.decode(msgspec.json.encode(stac.item(entry, PLACES)))
    assert complaints(item) == []
    properties = item["properties"]
    assert {name: value for name, value in properties.items() if name.startswith("sharinghub:")} == {
        "sharinghub:id": 20,
        "sharinghub:name": "Forecast",
        "sharinghub:path": "team/forecast",
        "sharinghub:stars": 3,
        "sharinghub:default-branch": "main",
    }
    assert properties["title"] == ("Forecasts" if content else "Forecast")
    assert properties["description"] == ("What comes" if content else "Of GitLab")
    assert not any("members" in name for name in properties)
    assert not any("infer" in asset["href"] for asset in item["assets"].values()), "it cannot be called here"


async def test_a_file_of_git_lfs_is_an_asset(policy: Policy) -> None:
    world = World(policy)
    world.table.put(content=CONTENT)
    entry = await world.catalogue.entry(None, "ai-model", "gitlab~20")
    assert entry is not None
    item = stac.item(entry, PLACES)
    assert stac.FILE in item["stac_extensions"]
    assert item["assets"]["data/Weights 1#.onnx"] == {
        "href": f"https://gitlab.example/team/forecast/-/raw/{'c' * 40}/data/Weights%201%23.onnx",
        "type": "application/octet-stream",
        "title": "data/Weights 1#.onnx",
        "roles": ["data"],
        "file:size": 7,
        "file:checksum": f"1220{SUM}",
    }


async def test_a_project_is_no_model_that_can_be_called(policy: Policy) -> None:
    """Stars are given in GitLab."""
    world = World(policy)
    world.table.put("public")
    who = CALLERS["reporter"]
    assert who is not None
    assert await world.catalogue.access(who, "gitlab~20") is None
    using = Using(cast(Pool, None), world.catalogue, cast(Clock, None))
    with pytest.raises(NotDone) as refused:
        await using.star(Actor(via="rest", name="x", identity=who), ("ai-model", "gitlab~20"), given=True)
    assert refused.value.why == Why.CONFLICT


# By access level in GitLab (None: no member): what SharingHub says, and so what its plugin of MLflow makes of it.
LEVELS = {None: 0, 5: 0, 10: 1, 15: 1, 20: 2, 30: 3, 40: 4, 50: 4}
WIDE = replace(RIGHTS, levels={"read": 20, "call": 20, "create": 30, "update": 30, "delete": 40})


@pytest.mark.parametrize(("in_gitlab", "said"), LEVELS.items())
async def test_an_access_level_is_that_of_sharinghub(policy: Policy, in_gitlab: int | None, said: int) -> None:
    world = World(policy, issuer(rights=WIDE))
    members = {} if in_gitlab is None else {"42": in_gitlab}
    for number, visibility in ((20, "private"), (21, "internal"), (22, "public")):
        path, collections = f"team/{visibility}", ("ai-model", "dataset")
        world.table.put(visibility, number, path=path, members=members, collections=collections)
        for who, as_member in (("42", said), ("4", 0)):
            level = max(as_member, 0 if visibility == "private" else 2)
            expected = Access(number, "Forecast", path, level, collections) if level else None
            for asked in (path, str(number)):
                assert await world.catalogue.access(caller(who), asked) == expected, (visibility, who)


async def test_who_is_not_the_user_reads_what_is_public_and_no_more(policy: Policy) -> None:
    world = World(policy, issuer(rights=replace(WIDE, visible={"public": WIDE.visible["public"] | {"delete"}})))
    for number, visibility in ((20, "private"), (21, "internal"), (22, "public")):
        world.table.put(visibility, number, path=f"team/{visibility}")
    for who in (caller("42", "lab"), caller("42", grant="grant-1"), CALLERS["job"]):
        assert who is not None
        levels = [await world.catalogue.access(who, f"team/{each}") for each in ("private", "internal", "public")]
        assert [each and each.level for each in levels] == [None, None, 2]
    elsewhere = caller("42", "lab")
    assert await world.catalogue.access(elsewhere, "22") is None, "a number is of the caller's GitLab"
    for wrong in ("team", "team/public/x", "Team/public", "team/publi", "", "022"):
        assert await world.catalogue.access(caller("42"), wrong) is None, wrong
    world.table.ages["gitlab", 22] = STALE + 1
    assert await world.catalogue.access(caller("42"), "team/public") is None, "GitLab was not asked for so long"


async def test_clients_of_sharinghub_ask_for_a_path(policy: Policy) -> None:
    """mlflow-sharinghub writes the slash as %2F, which Envoy refuses: it asks the console itself."""
    world = World(policy, issuer("kc", WIDE))
    world.table.put("private", name="kc", members={"alice": 30})
    async with client(world.catalogue) as http:
        for path in ("team%2Fforecast", "team/forecast", "20"):
            answer = await http.get(f"/check/{path}?info=true", headers=bearer("alice"))
            assert answer.json() == {
                "id": 20,
                "name": "Forecast",
                "path": "team/forecast",
                "access_level": 3,
                "categories": ["ai-model"],
            }
        for name, path in (("boss", "team%2Fforecast"), ("alice", "team%2Fother"), ("alice", "team%252Fforecast")):
            hidden = await http.get(f"/check/{path}?info=true", headers=bearer(name))
            nothing = await http.get("/check/no/thing?info=true", headers=bearer(name))
            assert (hidden.status_code, hidden.content) == (404, nothing.content)
