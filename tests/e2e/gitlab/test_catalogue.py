"""Projects with topics of SharingHub in the catalogue: `tollgate gitlab` asks the GitLab of the tests, over Postgres.

GitLab itself was not run: `tests/gitlab.py` has its API.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import gitlab as published
import httpx
import msgspec
import pytest
import yaml

from ext_authz.catalogue import stac
from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.entry import Entry
from ext_authz.catalogue.gitlab_entries import GitlabEntries
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Pool
from ext_authz.decision import Principal
from ext_authz.gitlab import entry_store
from ext_authz.identity.identity import Identity
from ext_authz.policy.load import load_policy
from tests.e2e.gitlab.world import HOOK, running_learner
from tests.gitlab import ADMIN, APPLICATION, LEVELS, Gitlab, running_gitlab
from tests.postgres_roles import role
from tests.stac.validation import complaints
from tests.unit.catalogue.world import PLACES
from tests.waiting import until

SUM = hashlib.sha256(b"weights").hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SUM}\nsize 7\n"
README = "---\ntitle: Forecasts\nlicense: Apache-2.0\ntags: [weather]\n---\n# Heading\nWhat it does\n"
REPORTER, STRANGER = 42, 7


class World:
    """`tollgate gitlab` runs; the catalogue is that of a console."""

    def __init__(self, gitlab: Gitlab, url: str, hook: str, catalogue: Catalogue) -> None:
        self.gitlab, self.url, self.hook, self.catalogue = gitlab, url, hook, catalogue
        self.client = published.Gitlab(url, private_token=ADMIN)

    async def found(self, user: int | None) -> dict[str, Entry]:
        """What this user of the GitLab finds, by path; None: who has no credential."""
        entries = await self.catalogue.entries(None if user is None else _identity(user))
        return {each.gitlab.path: each for each in entries if each.gitlab}

    async def ring(self, event: str = "System Hook") -> int:
        """What the webhook answers."""
        headers = {"x-gitlab-token": HOOK, "x-gitlab-event": event}
        async with httpx.AsyncClient(timeout=60) as http:
            return (await http.post(self.hook, headers=headers)).status_code


def _identity(user: int) -> Identity:
    principal = Principal("https://gitlab.example", str(user), APPLICATION, (), "t")
    return Identity(principal, "gitlab", "", 1, 2.0, ("m",), frozenset(), frozenset())


@pytest.fixture
def gitlab() -> Iterator[tuple[str, Gitlab]]:
    with running_gitlab() as (url, found):
        for path, visibility, topic in (
            ("team/forecast", "private", "sharinghub:aimodel"),
            ("team/reviews", "public", "sharinghub:dataset"),
            ("team/cleaner", "internal", "sharinghub:processor"),
            ("team/plain", "public", "other"),
            ("teams/elsewhere", "public", "sharinghub:dataset"),
        ):
            number = found.make(path, visibility)
            found.projects[number]["topics"] = [topic]
            found.members[number][REPORTER] = {"id": REPORTER, "access_level": LEVELS["reporter"], "state": "active"}
        yield url, found


@asynccontextmanager
async def world(directory: Path, database_url: str, gitlab: tuple[str, Gitlab]) -> AsyncIterator[World]:
    await migrate(database_url)
    url, found = gitlab
    rights = {"catalogue": ["team"]}
    issuer = {
        "name": "gitlab",
        "issuer": url,
        "audiences": ["m"],
        "gitlab": {"applications": [APPLICATION], "rights": rights},
    }
    policy = directory / "policy.yaml"
    policy.write_text(yaml.safe_dump({"version": 1, "issuers": [issuer], "routes": [_ROUTE]}))
    grants = [f"GRANT {', '.join(each)} ON {table} TO {{role}}" for table, each in entry_store.NEEDS.items()]
    grants.append("GRANT SELECT, INSERT, UPDATE ON gitlab_projects TO {role}")
    with (
        role(database_url, *grants) as writer,
        role(database_url, "GRANT SELECT ON gitlab_entries TO {role}") as reader,
        running_learner(directory, writer) as hook,
    ):
        pool = Pool(reader, timeout=5)
        await pool.open()
        loaded = load_policy(policy, {})
        try:
            entries = GitlabEntries(loaded.issuers, pool.run)
            yield World(found, url, hook, Catalogue(loaded, None, None, entries))
        finally:
            await pool.close()


_ROUTE = {"name": "live", "path": "/live", "methods": ["GET"], "public": True}


async def test_projects_with_topics_are_found_by_whoever_may_read_them(
    tmp_path: Path, database_url: str, gitlab: tuple[str, Gitlab]
) -> None:
    async with world(tmp_path, database_url, gitlab) as running:
        await until(lambda: _has(running, REPORTER, 3))
        assert set(await running.found(REPORTER)) == {"team/forecast", "team/reviews", "team/cleaner"}
        assert set(await running.found(STRANGER)) == {"team/reviews", "team/cleaner"}
        public = await running.found(None)
        assert {path: each.collection for path, each in public.items()} == {"team/reviews": "dataset"}
        await _a_push_is_described(running)
        await _a_webhook_hides(running)
        await _what_cannot_be_asked_is_hidden(running)


async def _has(running: World, user: int, count: int) -> bool:
    return len(await running.found(user)) == count


async def _a_push_is_described(running: World) -> None:
    number = running.gitlab.found("team/forecast") or 0
    running.gitlab.push(number, README_md=README, model_onnx=POINTER, _gitattributes="*.onnx filter=lfs\n")
    assert await running.ring("Push Hook") == 200
    entry = (await running.found(REPORTER))["team/forecast"]
    assert (entry.title, entry.card.license, entry.card.keywords) == ("Forecasts", "Apache-2.0", ("weather",))
    item = msgspec.json.decode(msgspec.json.encode(stac.item(entry, PLACES)))
    assert complaints(item) == []
    commit = running.gitlab.commit(number)
    assert item["assets"]["model.onnx"]["href"] == f"{running.url}/team/forecast/-/raw/{commit}/model.onnx"
    assert item["assets"]["model.onnx"]["file:checksum"] == f"1220{SUM}"
    asked = len([each for each in running.gitlab.asked if "/files/" in each])
    assert await running.ring("Push Hook") == 200
    assert len([each for each in running.gitlab.asked if "/files/" in each]) == asked, "it is the same commit"


async def _a_webhook_hides(running: World) -> None:
    """One becomes private, one loses its topic, a member leaves; the published client does it."""
    reviews = await asyncio.to_thread(running.client.projects.get, "team/reviews")
    reviews.visibility = "private"
    await asyncio.to_thread(reviews.save)
    running.gitlab.projects[running.gitlab.found("team/cleaner") or 0]["topics"] = []
    running.gitlab.members[running.gitlab.found("team/forecast") or 0].pop(REPORTER)
    assert await running.ring() == 200
    assert await running.found(None) == await running.found(STRANGER) == {}
    assert set(await running.found(REPORTER)) == {"team/reviews"}


async def _what_cannot_be_asked_is_hidden(running: World) -> None:
    running.gitlab.down = True
    assert await running.ring() == 503
    assert await running.found(REPORTER) == {}
    running.gitlab.down = False
    assert await running.ring() == 200
    assert set(await running.found(REPORTER)) == {"team/reviews"}
