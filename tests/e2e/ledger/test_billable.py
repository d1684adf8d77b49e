"""What each decision counts for on a bill, by what became of it: through a real Envoy, and row by row."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.ledger.billable import BILLED, OUTCOMES
from ext_authz.ledger.commands import usage
from ext_authz.ledger.event import USAGE_UNITS
from ext_authz.ledger.outcome import Outcome, insert, outcomes_of
from ext_authz.ledger.reconcile import count
from tests.e2e.ledger.access_logs import entry, message
from tests.e2e.render.test_local_replies import BOUNDS, CALL, INFER, LOST, VARIANTS
from tests.e2e.render.world import DID, FAILS, HANGS, World, running_world
from tests.services import wait_for
from tests.unit.render.policies import EVERYDAY, of_kinds

EVENT = """
INSERT INTO usage_events (decision_id, occurred_at, client, model, reason, code, subject, issuer, token_id, route,
    model_version, method, path, policy)
VALUES (%s, now() - make_interval(mins => %s), 'shop', 'sentiment', %s, '', 'sub', 'iss', 'jti', 'infer', '', 'POST',
    %s, '')
"""
SETTLED = """
INSERT INTO call_outcomes (decision_id, status, grpc_status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, attempts, upstream_ms, received_at)
VALUES (%s, %s, %s, %s, '', 5, 10, 20, '', '', 1, %s, now() - interval '30 minutes')
"""
GONE, RESET = "downstream_connection_termination", "upstream_remote_reset"
ROWS: list[tuple[str, str, tuple[int, int | None, str, float | None] | None]] = [
    ("served", "allowed", (200, None, "", 4)),
    ("served", "allowed", (304, None, "", 4)),
    ("served", "allowed", (200, 0, "", 4)),
    ("served", "allowed", (200, None, "stream_idle_timeout", 4)),  # the answers of a stream came
    ("client_gone", "allowed", (0, None, GONE, 4)),
    ("client_gone", "allowed", (200, None, f"{GONE} response_from_cache_filter", 4)),
    ("client_gone", "allowed", (200, None, "downstream_remote_reset", 4)),
    ("client_gone", "allowed", (200, 1, "", 4)),
    ("unreached", "allowed", (0, None, GONE, None)),
    ("unreached", "allowed", (503, None, "upstream_connection_failure", None)),
    ("unreached", "allowed", (200, 14, "no_healthy_upstream", None)),
    ("client_error", "allowed", (404, None, "", None)),
    ("client_error", "allowed", (429, None, "", 4)),
    ("client_error", "allowed", (200, 3, "", 4)),
    ("server_error", "allowed", (500, None, "", 4)),
    ("server_error", "allowed", (200, 13, "", 4)),
    ("server_error", "allowed", (200, None, RESET, 4)),
    ("timeout", "allowed", (504, None, "upstream_request_timeout", 4)),
    ("timeout", "allowed", (200, 4, "upstream_request_timeout", 4)),
    ("unsettled", "allowed", None),
    ("denied", "invalid_credential", None),
    ("denied", "revoked", (200, None, "", 4)),  # somebody passed by: never billed
    ("rate_limited", "over_limit", None),
    ("unavailable", "unavailable", None),
    ("unavailable", "internal", None),
]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": VARIANTS})
    with running_world("envoy", policy, tmp_path_factory.mktemp("billable"), BOUNDS) as world:
        yield world


def rest(door: World, headers: Mapping[str, str], path: str = INFER) -> str:
    """The decision."""
    return httpx.post(door.url + path, content=b"x" * 100, headers=headers).headers["x-decision-id"]


def rpc(door: World, headers: Mapping[str, str]) -> str:
    body = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
    with grpc.insecure_channel(door.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CALL)
        ended = call.future(body, metadata=tuple(headers.items()))
        ended.code()
        return str(dict((*ended.initial_metadata(), *ended.trailing_metadata()))["x-decision-id"])


def hang_up(door: World) -> None:
    """As a caller who leaves while the model works."""
    door.forget()
    with socket.create_connection(("127.0.0.1", door.port)) as caller:
        caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\n{HANGS}: 1\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        wait_for(lambda: bool(door.reached()))


def gone(door: World, *others: str) -> Outcome:
    """The only outcome that is none of these."""

    def found() -> list[Outcome]:
        return [one for one in door.usage_worker.outcomes if one and str(one.decision_id) not in others]

    wait_for(lambda: bool(found()))
    (one,) = found()
    return one


async def billed(url: str, *outcomes: Outcome) -> dict[str, dict[str, Any]]:
    """Rows of `billable` by decision id, of calls that were allowed."""
    async with await connect(url) as connection:
        for one in outcomes:
            await connection.execute(EVENT, (one.decision_id, 0, "allowed", INFER))
        await insert(connection, outcomes)
        cursor = await connection.execute("SELECT row_to_json(billable)::text FROM billable")
        rows = [json.loads(text, parse_float=Decimal) for (text,) in await cursor.fetchall()]
    return {row["decision_id"]: row for row in rows}


async def test_what_a_real_envoy_saw_is_billed_by_what_the_caller_got(door: World, database_url: str) -> None:
    await migrate(database_url)
    decisions = {
        "served": [rest(door, {}), rest(door, {DID: "42"}), rpc(door, {}), rpc(door, {DID: "7"})],
        "client_error": [rest(door, {}, "/v2/not-rendered")],
        "server_error": [rest(door, {FAILS: "broken", DID: "9"}), rpc(door, {FAILS: "broken"})],
        "timeout": [rest(door, {HANGS: "1"}), rpc(door, {HANGS: "1"})],
        "unreached": [rest(door, LOST), rpc(door, LOST)],
    }
    await asyncio.to_thread(hang_up, door)
    calls = {name: [door.usage_worker.outcome(one) for one in several] for name, several in decisions.items()}
    calls["client_gone"] = [gone(door, *(one for several in decisions.values() for one in several))]
    found = await billed(database_url, *(one for outcomes in calls.values() for one in outcomes))
    assert {name: [found[str(one.decision_id)]["outcome"] for one in outcomes] for name, outcomes in calls.items()} == {
        name: [name] * len(outcomes) for name, outcomes in calls.items()
    }
    counted = {name: [found[str(one.decision_id)]["units"] for one in outcomes] for name, outcomes in calls.items()}
    assert counted.pop("served") == [1, 42, 1, 7]
    assert counted.pop("client_gone") == [1]
    assert not any(units for several in counted.values() for units in several)
    (answered, *_), (late, _), (lost, _) = calls["served"], calls["timeout"], calls["unreached"]
    assert (answered.attempts, late.attempts) == (1, 1)
    assert lost.attempts == 3, "it was tried again, and is one row"
    assert 490 <= late.upstream_ms < 20_000
    assert Decimal("0.49") < found[str(late.decision_id)]["seconds"], "what a late answer costs us is seen"


async def test_every_outcome_counts_as_the_table_says(database_url: str) -> None:
    await migrate(database_url)
    expected = {}
    async with await connect(database_url) as connection:
        for name, reason, settled in ROWS:
            expected[one := uuid.uuid4()] = name
            await connection.execute(EVENT, (one, 0, reason, INFER))
            if settled:
                await connection.execute(SETTLED, (one, *settled))
        index = uuid.uuid4()
        await connection.execute(EVENT, (index, 0, "allowed", "/v2/repository/index"))
        expected[index] = "answered"
        cursor = await connection.execute("SELECT decision_id, outcome, billed, requests, units FROM billable")
        found = {one: (outcome, *rest) for one, outcome, *rest in await cursor.fetchall()}
    assert {one: outcome for one, (outcome, *_) in found.items()} == expected
    assert set(expected.values()) == OUTCOMES.keys()
    for outcome, is_billed, requests, units in found.values():
        assert (is_billed, requests, units) == (outcome in BILLED, int(outcome in BILLED), int(outcome in BILLED))


@pytest.mark.parametrize(
    ("said", "units"),
    [("12", 12), ("0", 0), ("999999999999", 999_999_999_999), ("1000000000000", 1), ("-1", 1), ("1.5", 1), ("٣", 1)],
)
async def test_only_a_whole_number_within_bounds_is_believed(database_url: str, said: str, units: int) -> None:
    await migrate(database_url)
    one = reached(entry(str(uuid.uuid4())))
    one.response.response_trailers[USAGE_UNITS] = said
    assert [row["units"] for row in (await billed(database_url, *read(one))).values()] == [units]


async def test_units_are_believed_only_of_an_answer_of_the_upstream(database_url: str) -> None:
    await migrate(database_url)
    by_envoy, unasked, twice = (entry(str(uuid.uuid4())) for _ in range(3))
    for each in (by_envoy, unasked, twice):
        each.response.response_headers[USAGE_UNITS] = "50"
    reached(by_envoy).response.response_code_details = "direct_response"
    reached(twice).response.response_trailers[USAGE_UNITS] = "60"
    found = await billed(database_url, *read(by_envoy), *read(unasked), *read(twice))
    assert sorted(row["units"] for row in found.values()) == [1, 1, 60]


def reached(one: Any) -> Any:  # noqa: ANN401 - an entry
    one.common_properties.time_to_first_upstream_tx_byte.FromMilliseconds(2)
    one.common_properties.time_to_last_upstream_rx_byte.FromMilliseconds(10)
    return one


def read(one: Any) -> list[Outcome]:  # noqa: ANN401 - an entry
    return [outcome for outcome in outcomes_of(message(one)) if outcome]


@pytest.fixture
def loose(database_url: str) -> Mapping[str, uuid.UUID]:
    """A ledger with one decision of each kind, half an hour old, and one of now without an outcome."""
    asyncio.run(migrate(database_url))
    ids = {name: uuid.uuid4() for name in ("whole", "unsettled", "refused", "no decision", "young", "index", "denied")}
    events = (
        ("whole", 30, "allowed", INFER),
        ("unsettled", 30, "allowed", INFER),
        ("refused", 30, "revoked", INFER),
        ("young", 0, "allowed", INFER),
        ("index", 30, "allowed", "/v2/repository/index"),
        ("denied", 30, "forbidden", INFER),
    )
    with psycopg.connect(database_url) as connection:
        for name, minutes, reason, path in events:
            connection.execute(EVENT, (ids[name], minutes, reason, path))
        for name in ("whole", "refused", "no decision"):
            connection.execute(SETTLED, (ids[name], 200, None, "", 4))
    return ids


def test_what_does_not_add_up_is_listed_and_nothing_else(loose: Mapping[str, uuid.UUID], database_url: str) -> None:
    def run(*words: str) -> Any:  # noqa: ANN401 - click's
        return CliRunner().invoke(usage, ["reconcile", *words], env={"TOLLGATE_DATABASE_URL": database_url})

    first = run("--format", "json")
    assert first.exit_code == 0, first.exception
    found = json.loads(first.stdout)
    assert {(row["kind"], row["decision_id"]) for row in found} == {
        (kind, str(loose[kind])) for kind in ("unsettled", "refused", "no decision")
    }
    assert {row["answered"] for row in found if row["kind"] != "unsettled"} == {"200"}
    assert len(json.loads(run("--grace", "1s", "--since", "1h", "--format", "json").stdout)) == 3, "it is of now"
    assert run("--since", "10m", "--grace", "20m").exit_code == 1
    assert run("--since", "20m").stdout == "none\n"
    one = run("--limit", "1")
    assert (len(one.stdout.splitlines()), one.stderr) == (
        2,
        "there are more than 1: narrow the period, or write --limit\n",
    )


async def test_both_kinds_are_counted_apart(loose: Mapping[str, uuid.UUID], database_url: str) -> None:
    async with await connect(database_url) as connection:
        cursor = await connection.execute("SELECT now() - interval '1 hour', now() - interval '10 minutes'")
        ((since, until),) = await cursor.fetchall()
        assert await count(connection, since, until) == (1, 2)
