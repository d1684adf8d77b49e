"""A worker's copy of `gitlab_projects`: what it gives, to whom it says that rights changed, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ext_authz.errors import Unavailable
from ext_authz.owners import projects as module
from ext_authz.owners.projects import KnownProjects
from ext_authz.policy.issuers import Gitlab, Issuer, ProjectRights
from tests.fakes import FakeClock

STALE = 600
READ = frozenset({"read"})
LEVELS = {"read": 20, "update": 30}


def issuer(name: str, *paths: str, rights: bool = True) -> Issuer:
    given = ProjectRights(
        projects={path: (f"{name}:{path}",) for path in paths},
        levels=LEVELS,
        visible={"internal": READ, "public": READ},
        stale=STALE,
    )
    return Issuer(
        name=name,
        issuer=f"https://{name}.example",
        jwks_url=f"https://{name}.example/keys",
        audiences=frozenset({"models"}),
        gitlab=Gitlab(frozenset({"application"}), rights=given if rights else None),
    )


class Table:
    """What is in Postgres, asked as psycopg is."""

    info = SimpleNamespace(server_version=170_000)

    def __init__(self, clock: FakeClock) -> None:
        self.rows: dict[tuple[str, str], tuple[str, str, Mapping[str, int], float]] = {}
        """Digest, visibility, members; when it was asked, by the monotonic clock."""
        self.clock, self.away, self.bodies = clock, False, 0
        self._found: list[tuple[object, ...]] = []

    def put(self, path: str, visibility: str, *, name: str = "gitlab", age: float = 0.1, **members: int) -> None:
        named = {user.removeprefix("u"): level for user, level in members.items()}
        digest = f"{visibility}{sorted(named.items())}"
        self.rows[name, path] = (digest, visibility, named, self.clock.monotonic() - age)

    async def read(self, work: Any) -> Any:  # noqa: ANN401 - as `db.postgres.Read`
        if self.away:
            raise Unavailable("postgres", "away")
        return await work(self)

    async def execute(self, query: str, values: Any) -> Table:  # noqa: ANN401 - of psycopg
        if query == module._HEADS:
            now = self.clock.monotonic()
            self._found = [(*key, row[0], now - row[3]) for key, row in self.rows.items()]
        elif query == module._BODIES:
            self.bodies += 1
            keys = zip(values["issuers"], values["projects"], strict=True)
            found = [(key, self.rows[key]) for key in keys if key in self.rows]
            self._found = [(*key, row[0], row[1], msgspec.json.encode(row[2]).decode()) for key, row in found]
        else:
            self._found = [(False, "tollgate", "UTF8", [])]
        return self

    async def fetchall(self) -> list[tuple[object, ...]]:
        return self._found


class World:
    def __init__(self, *issuers: Issuer) -> None:
        self.clock = FakeClock()
        self.table = Table(self.clock)
        policy = issuers or (issuer("gitlab", "team/a", "team/b"),)
        self.known = KnownProjects(policy, self.table.read, self.clock, poll=1)
        self.told: list[tuple[str, frozenset[str] | None]] = []
        self.known.listen(lambda name, users: self.told.append((name, users)))

    async def look(self) -> list[tuple[str, frozenset[str] | None]]:
        """Once more; what was told because of it."""
        self.told.clear()
        await self.known._attempt()
        return self.told

    def roles(self, user: str, name: str = "gitlab") -> set[str]:
        return set(self.known.roles(name, user))


async def test_roles_by_level_and_visibility() -> None:
    world = World()
    world.table.put("team/a", "private", u42=30, u7=10)
    world.table.put("team/b", "internal")
    await world.look()
    assert world.roles("42") == {"gitlab:team/a:read", "gitlab:team/a:update", "gitlab:team/b:read"}
    assert world.roles("7") == world.roles("4") == {"gitlab:team/b:read"}
    assert world.known.cause() == ""


async def test_before_the_first_reading_nobody_knows() -> None:
    world = World()
    world.table.away = True
    await world.look()
    with pytest.raises(Unavailable, match="not known: away"):
        world.roles("42")
    assert (world.known.loaded, world.known.cause()) == (False, "away")
    assert world.roles("42", "keycloak") == set(), "users of others do not wait for it"


async def test_only_projects_of_the_policy_and_only_at_their_gitlab() -> None:
    """Neither by prefix, nor by case, nor of a GitLab with another name."""
    world = World(issuer("gitlab", "team/a"), issuer("lab", "team/b"))
    for path in ("team", "team/a/sub", "Team/A", "team/a2", "team/b"):
        world.table.put(path, "public", u42=50)
    world.table.put("team/a", "public", name="lab", u42=50)
    world.table.put("team/b", "private", name="lab", u7=20)
    await world.look()
    assert world.roles("42") == set()
    assert (world.roles("7", "lab"), world.roles("7")) == ({"lab:team/b:read"}, set())
    assert "team/a" in world.known.cause()


async def test_an_issuer_without_projects_has_no_copy() -> None:
    assert not World(issuer("gitlab", rights=False)).known
    assert not World(issuer("gitlab")).known
    assert World().known


async def test_who_is_told_of_a_change() -> None:
    world = World()
    world.table.put("team/a", "private", u1=30, u2=30)
    world.table.put("team/b", "private")
    assert set(await world.look()) == {("gitlab", None)}, "what is known for the first time may be of anybody"
    assert (await world.look(), world.table.bodies) == ([], 1)
    world.table.put("team/a", "private", u1=30, u2=10, u3=20)
    assert await world.look() == [("gitlab", frozenset({"2", "3"}))]
    assert (world.roles("2"), world.roles("3")) == (set(), {"gitlab:team/a:read"})
    world.table.put("team/a", "public", u1=30, u2=10, u3=20)
    assert await world.look() == [("gitlab", None)]
    assert world.roles("4") == {"gitlab:team/a:read"}


async def test_a_project_that_is_in_the_table_no_more() -> None:
    world = World()
    world.table.put("team/a", "public")
    await world.look()
    del world.table.rows["gitlab", "team/a"]
    assert await world.look() == [("gitlab", None)]
    assert world.roles("42") == set()


@pytest.mark.parametrize("away", [False, True], ids=["gitlab", "postgres"])
async def test_an_answer_gives_rights_until_it_is_stale(*, away: bool) -> None:
    """Whoever does not answer: the tokens that are cached are forgotten, and new ones get nothing."""
    world = World()
    world.table.put("team/a", "private", age=0, u42=30)
    world.table.put("team/b", "public", age=1)
    await world.look()
    world.table.away = away
    world.clock.advance(STALE - 1.5)
    assert await world.look() == []
    assert "gitlab:team/a:read" in world.roles("42")
    world.clock.advance(1)
    assert world.roles("42") == {"gitlab:team/a:read", "gitlab:team/a:update"}, "before anybody looks again"
    assert await world.look() == [("gitlab", None)]
    world.clock.advance(1)
    assert await world.look() == [("gitlab", None)]
    assert world.roles("42") == set()
    assert away or world.known.cause().startswith("2 projects are not known, such as team/a")


async def test_the_same_answer_again_makes_it_fresh() -> None:
    world = World()
    world.table.put("team/a", "public")
    await world.look()
    world.clock.advance(STALE)
    assert await world.look() == [("gitlab", None)]
    world.table.put("team/a", "public")
    assert await world.look() == [("gitlab", None)]
    assert (world.roles("42"), world.table.bodies) == ({"gitlab:team/a:read"}, 1)


async def test_an_answer_of_the_future_gives_nothing() -> None:
    """The clock of Postgres was set back: what is written now is older, and dropped. So nothing would be taken away."""
    world = World()
    world.table.put("team/a", "public", age=-3600)
    await world.look()
    assert world.roles("42") == set()
    world.clock.advance(3601)
    await world.look()
    assert world.roles("42") == {"gitlab:team/a:read"}


async def test_it_stays_while_postgres_is_away_and_is_read_again() -> None:
    world = World()
    world.table.put("team/a", "private", u42=30)
    await world.look()
    world.table.away = True
    world.table.put("team/a", "private")
    assert (await world.look(), world.known.loaded) == ([], True)
    assert "gitlab:team/a:read" in world.roles("42")
    world.table.away = False
    assert await world.look() == [("gitlab", frozenset({"42"}))]
    assert world.roles("42") == set()


async def test_a_row_that_cannot_be_read_gives_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.put("team/a", "private", u42=30)
    await world.look()
    key = ("gitlab", "team/a")
    world.table.rows[key] = ("other", "private", {"42": "owner"}, world.clock.monotonic())  # type: ignore[dict-item]
    world.clock.advance(STALE + 1)
    await world.look()
    assert world.roles("42") == set()
    assert "unexpected failure" in caplog.text
