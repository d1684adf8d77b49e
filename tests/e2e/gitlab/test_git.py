"""Real git through the door, by what a GitLab says of its projects; the published client changes it there.

GitLab itself was not run: `tests/gitlab.py` has its API.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.e2e.gitlab.world import HOOK, VISIBILITIES, World, running_world
from tests.gitlab import LEVELS
from tests.services import running_redis, wait_for

USERS = {"stranger": 7, **{name: 1000 + level for name, level in LEVELS.items()}}


@pytest.fixture(scope="module")
def database(postgres_server: str) -> str:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[World]:
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_world(tmp_path_factory.mktemp("gitlab"), redis.url, database) as running,
    ):
        for visibility in VISIBILITIES:
            project = running.client.projects.get(f"team/{visibility}")
            for name, level in LEVELS.items():
                project.members.create({"user_id": USERS[name], "access_level": level})
            project.hooks.create({"url": running.hook, "token": HOOK, "member_events": True, "push_events": False})
        told = httpx.post(running.hook, headers={"x-gitlab-token": HOOK, "x-gitlab-event": "Member Hook"}, timeout=30)
        assert (told.status_code, told.text) == (200, "in force\n")
        yield running


def test_the_published_client_reads_the_gitlab_of_the_tests(world: World) -> None:
    project = world.client.projects.get("team/internal")
    assert (project.visibility, project.path_with_namespace) == ("internal", "team/internal")
    members = project.members_all.list(get_all=True, per_page=2)
    assert sorted(member.access_level for member in members) == sorted(LEVELS.values())
    found = httpx.get(f"{world.issuer}/.well-known/openid-configuration").json()
    assert httpx.get(found["jwks_uri"]).json()["keys"]


@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_who_pulls_and_who_pushes(world: World, visibility: str) -> None:
    wait_for(lambda: world.pulls(USERS["owner"], visibility))
    everybody = visibility != "private"
    for name, user in USERS.items():
        level = LEVELS.get(name, 0)
        assert world.pulls(user, visibility) == (everybody or level >= LEVELS["reporter"]), name
        assert world.pushes(user, visibility) == (level >= LEVELS["developer"]), name
    assert not world.pulls(None, visibility)
    assert world.clone(USERS["reporter"], visibility) == "hello\n"


def test_a_webhook_takes_rights_away_and_gives_them(world: World) -> None:
    project, user = world.client.projects.get("team/private"), 4711
    assert not world.pulls(user, "private")
    member = project.members.create({"user_id": user, "access_level": LEVELS["developer"]})
    wait_for(lambda: world.pushes(user, "private"))
    member.access_level = LEVELS["reporter"]
    member.save()
    wait_for(lambda: not world.pushes(user, "private"))
    assert world.pulls(user, "private")
    project.members.delete(user)
    wait_for(lambda: not world.pulls(user, "private"))
    assert set(world.gitlab.told) == {200}


def test_a_project_that_becomes_private(world: World) -> None:
    project, user = world.client.projects.get("team/public"), USERS["stranger"]
    wait_for(lambda: world.pulls(user, "public"))
    project.visibility = "private"
    project.save()
    wait_for(lambda: not world.pulls(user, "public"))
    assert world.pulls(USERS["reporter"], "public")
    project.visibility = "public"
    project.save()
    wait_for(lambda: world.pulls(user, "public"))


def test_what_cannot_be_asked_after_a_webhook_gives_no_rights(world: World) -> None:
    assert (
        httpx.post(world.hook, headers={"x-gitlab-token": "wrong", "x-gitlab-event": "Member Hook"}).status_code == 401
    )
    world.gitlab.down = True
    headers = {"x-gitlab-token": HOOK, "x-gitlab-event": "System Hook"}
    try:
        assert httpx.post(world.hook, headers=headers, timeout=30).status_code == 503
        wait_for(lambda: not world.pulls(USERS["owner"], "private"))
    finally:
        world.gitlab.down = False
    wait_for(lambda: world.pulls(USERS["owner"], "private"))


def test_a_project_that_takes_the_path_of_another_inherits_nothing(world: World) -> None:
    owner, squatter = USERS["owner"], 666
    wait_for(lambda: world.pulls(owner, "private"))
    project = world.client.projects.get("team/private")
    project.path = "renamed"
    project.save()
    wait_for(lambda: not world.pulls(owner, "private"))
    number = world.gitlab.make("team/private", "public")
    world.gitlab.members[number][squatter] = {"id": squatter, "access_level": LEVELS["owner"], "state": "active"}
    headers = {"x-gitlab-token": HOOK, "x-gitlab-event": "System Hook"}
    assert httpx.post(world.hook, headers=headers, timeout=30).status_code == 503
    assert not world.pulls(squatter, "private")
    world.gitlab.projects.pop(number)
    project.path = "private"
    project.save()
    wait_for(lambda: world.pulls(owner, "private"))
    assert not world.pulls(squatter, "private")


def test_answers_that_are_too_old_give_no_rights(world: World, database: str) -> None:
    wait_for(lambda: world.pulls(USERS["owner"], "private"))
    with psycopg.connect(database, autocommit=True) as rows:
        rows.execute(
            "UPDATE gitlab_projects SET asked_at = asked_at - interval '1 hour' WHERE project = 'team/private'"
        )
    wait_for(lambda: not world.pulls(USERS["owner"], "private"))
    assert (
        httpx.post(
            world.hook, headers={"x-gitlab-token": HOOK, "x-gitlab-event": "Member Hook"}, timeout=30
        ).status_code
        == 200
    )
    wait_for(lambda: world.pulls(USERS["owner"], "private"))
