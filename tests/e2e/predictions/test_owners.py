"""Owners of a model page through its predictions, export and delete them; nobody else learns that there are any."""

from __future__ import annotations

import csv
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from msgspec import structs
from pydantic import SecretStr

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import connect
from ext_authz.ledger.event import COLUMNS
from ext_authz.policy.load import load_policy
from ext_authz.predictions import postgres, service
from ext_authz.predictions.commands import predictions
from ext_authz.predictions.ingest import Ingest
from tests.e2e.api.world import World, alice, world_of
from tests.e2e.ledger.world import event
from tests.predictions import line, write
from tests.tokens import ALICE, AUDIENCE

OWNER = {AUDIENCE: {"roles": ["infer", "sentiment-owner"]}}
PATH = "/models/sentiment/predictions"
PAST = time.time() - 3600


class Log:
    """Files of models that become rows."""

    def __init__(self, world: World, database_url: str, directory: Path) -> None:
        self.world = world
        self.owner = alice(resource_access=OWNER, jti="owner")
        self.directory = directory / "predictions"
        self.directory.mkdir()
        self._url = database_url
        policy = directory / "policy.yaml"
        url = SecretStr(database_url)
        self._ingest = Ingest(url, self.directory, lambda: load_policy(policy, {}), b"", SystemClock())

    async def decided(self) -> str:
        """A call that the ledger has."""
        call = event(subject="bob")
        given = {**structs.asdict(call), "facts": None, "occurred_at": datetime.now(UTC)}
        values = [given[name] for name in COLUMNS]
        marks = ", ".join(["%s"] * len(COLUMNS))
        async with await connect(self._url) as connection:
            query = f"INSERT INTO usage_events ({', '.join(COLUMNS)}) VALUES ({marks})"
            await connection.execute(query.encode(), values)
        return call.decision_id

    async def move(self) -> None:
        import asyncio

        async with await connect(self._url) as connection:
            await self._ingest.move(connection, asyncio.Event())

    async def rows(self, *fields: dict[str, Any]) -> str:
        """Of one decision; each is a second younger than the one before."""
        decision = await self.decided()
        lines = [line(decision, row=row, at=PAST + row, **each) for row, each in enumerate(fields)]
        write(self.directory, *lines)
        await self.move()
        return decision

    async def get(self, path: str = PATH, token: str | None = None) -> Any:  # noqa: ANN401 - JSON
        answer = await self.world.rest("GET", path, self.owner if token is None else token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
async def log(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Log]:
    async with world_of(database_url, redis_url, tmp_path) as world:
        yield Log(world, database_url, tmp_path)


def at(row: int) -> str:
    return datetime.fromtimestamp(PAST + row, UTC).isoformat().replace("+00:00", "Z")


async def test_its_owner_pages_through_it(log: Log) -> None:
    decision = await log.rows(*[{"version": "1"}] * 5)
    seen, cursor = [], ""
    while True:
        page = await log.get(f"{PATH}?limit=2&cursor={cursor}")
        seen += [each["row"] for each in page["predictions"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert seen == [4, 3, 2, 1, 0]
    first = (await log.get(f"{PATH}?limit=1"))["predictions"][0]
    assert {name: first[name] for name in ("decision_id", "subject", "client", "inputs", "outputs", "host")} == {
        "decision_id": decision, "subject": "bob", "client": "shop", "inputs": {"text": "good"},
        "outputs": {"label": "positive"}, "host": "pod-1",
    }  # fmt: skip


async def test_filters(log: Log) -> None:
    decision = await log.rows(
        {"version": "1"}, {"version": "2"}, {"variant": "canary"}, {"outputs": {"label": "negative"}}
    )
    for query, rows in {
        "version=2": [1],
        "variant=canary": [2],
        "label=negative": [3],
        f"since={at(2)}": [3, 2],
        f"until={at(2)}": [1, 0],
        f"since={at(1)}&until={at(2)}": [1],
        f"decision_id={decision}&version=1": [3, 2, 0],
        f"decision_id={uuid.uuid4()}": [],
    }.items():
        assert [each["row"] for each in (await log.get(f"{PATH}?{query}"))["predictions"]] == rows, query


@pytest.mark.parametrize(
    "query",
    [
        "cursor=abc",
        "limit=0",
        "since=yesterday",
        "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
        "decision_id=1",
        "label=%00",
    ],
)
async def test_a_wrong_request_is_said(log: Log, query: str) -> None:
    answer = await log.world.rest("GET", f"{PATH}?{query}", log.owner)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


async def test_an_export_has_every_row_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EXPORTED", 3)
    await log.rows(*[{}] * 7)
    answer = await log.world.rest("GET", f"{PATH}/export?since={at(1)}", log.owner)
    assert answer.headers["content-type"].startswith("application/jsonl")
    assert [json.loads(text)["row"] for text in answer.text.splitlines()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("path", [PATH, f"{PATH}/export"])
async def test_nobody_else_learns_of_it(log: Log, path: str) -> None:
    """The same answer as for a model that does not exist, also to who may call the model, and to administrators."""
    await log.rows({})
    boss = alice(resource_access={AUDIENCE: {"roles": ["infer", "boss"]}}, jti="boss")
    for token in (alice(), boss):
        found = await log.world.rest("GET", path, token)
        missing = await log.world.rest("GET", path.replace("sentiment", "nothing"), token)
        assert (found.status_code, found.content) == (404, missing.content)
        assert found.headers == missing.headers


async def test_an_api_token_takes_scope_role_and_model(log: Log) -> None:
    await log.rows({})

    async def token(**wanted: Any) -> str:  # noqa: ANN401 - JSON
        body = {"name": uuid.uuid4().hex[:8], "lifetime": 86_400, **wanted}
        answer = await log.world.rest("POST", "/grants", log.owner, body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    scopes = ["tollgate:predictions"]
    assert len((await log.get(token=await token(scopes=scopes)))["predictions"]) == 1
    assert len((await log.get(token=await token(scopes=scopes, models=["sentiment"])))["predictions"]) == 1
    for wanted, status in (
        ({"scopes": []}, 403),
        ({"scopes": scopes, "roles": ["infer"]}, 404),
        ({"scopes": scopes, "models": ["fraud-1"]}, 404),
    ):
        refused = await log.world.rest("GET", PATH, await token(**wanted))
        assert refused.status_code == status, (wanted, refused.text)


async def test_a_deletion_is_total_and_in_the_audit_log(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STEP", 2)
    decision = await log.rows(*[{}] * 5)
    write(log.directory, line(decision, row=9))  # a model has written it, and nobody has moved it
    answer = await log.world.rest("DELETE", f"{PATH}?all=true", log.owner)
    assert (answer.status_code, answer.json()) == (200, {"deleted": 5})
    await log.move()
    assert (await log.get())["predictions"] == []
    ((actor, via, what, details),) = log.sql("SELECT actor, via, object, details FROM audit_log")
    assert (via, what) == ("rest", "predictions:sentiment")
    assert actor.endswith("@demo")
    assert details == {}
    later = await log.decided()
    write(log.directory, line(later))
    await log.move()
    assert [each["decision_id"] for each in (await log.get())["predictions"]] == [later]
    assert log.sql("SELECT done FROM prediction_deletions") == [(True,)]


async def test_a_time_or_a_decision_is_deleted_alone(log: Log) -> None:
    first, second = await log.rows(*[{}] * 4), await log.rows({})
    assert (await log.world.rest("DELETE", f"{PATH}?until={at(2)}", log.owner)).json() == {"deleted": 3}
    assert {(each["decision_id"], each["row"]) for each in (await log.get())["predictions"]} == {(first, 2), (first, 3)}
    assert second
    answer = await log.world.rest("DELETE", f"{PATH}?since={at(2)}&decision_id={first}", log.owner)
    assert answer.json() == {"deleted": 2}


async def test_what_to_delete_must_be_said(log: Log) -> None:
    await log.rows({})
    answer = await log.world.rest("DELETE", PATH, log.owner)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert "all=true" in answer.json()["detail"]
    assert len((await log.get())["predictions"]) == 1


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - a function
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
    return lambda *arguments: CliRunner().invoke(predictions, arguments)


async def test_operators_have_commands(log: Log, run: Any) -> None:  # noqa: ANN401 - a function
    import asyncio

    decision = await log.rows(*[{}] * 3)

    async def tollgate(*arguments: str) -> Result:
        result: Result = await asyncio.to_thread(run, *arguments)
        return result

    listed = await tollgate("list", "sentiment", "--format", "json", "--limit", "2")
    assert [each["row"] for each in json.loads(listed.stdout)] == [2, 1]
    assert "there are more: --after" in listed.stderr
    more = await tollgate("list", "sentiment", "--after", listed.stderr.split()[-1], "--format", "csv")
    assert [each["decision_id"] for each in csv.DictReader(more.stdout.splitlines())] == [decision]
    exported = await tollgate("export", "sentiment", "--label", "positive")
    assert [json.loads(text)["row"] for text in exported.stdout.splitlines()] == [0, 1, 2]
    refused = await tollgate("delete", "sentiment")
    assert (refused.exit_code != 0, str(refused.exception)) == (
        True, "say what to delete: --since, --until or --decision, or --all"
    )  # fmt: skip
    assert (await tollgate("delete", "sentiment", "--decision", decision, "--by", "dora")).stdout == "3 deleted\n"
    assert log.sql("SELECT actor, via FROM audit_log") == [("dora", "cli")]
    assert ALICE not in (await tollgate("list", "sentiment")).stdout
