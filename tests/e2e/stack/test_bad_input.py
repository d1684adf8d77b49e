"""Every line of docs/bad-input.md, through the real Envoy: what the caller gets, and what the ledger says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
import pytest

from devstack.stack.stack import Stack
from tests.docs.bad_input import ROWS, Row
from tests.e2e.stack.bad_caller import BadCaller, Found
from tests.e2e.stack.bad_requests import GRPC, REST, STREAM
from tests.services import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

Key = tuple[str, str]
SENT = {
    **{(what, "REST"): sent for what, sent in REST.items()},
    **{(what, "gRPC"): sent for what, sent in GRPC.items()},
    **{(what, "stream"): sent for what, sent in STREAM.items()},
}
HARMFUL = re.compile(r"Traceback|\bAt:|File \"|\.py\b|0x[0-9a-f]{6}|/(?:tmp|home|usr|opt|work|root)/", re.ASCII)
"""What no sentence has."""


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Iterator[BadCaller]:
    with BadCaller(stack) as someone:
        yield someone


@pytest.fixture(scope="module")
def answers(stack: Stack, caller: BadCaller) -> Mapping[Key, Found | Exception]:
    """To each line, while one Triton runs."""
    pid = stack.child("triton").pid
    found: dict[Key, Found | Exception] = {}
    for (what, over), sent in SENT.items():
        try:
            found[what, over] = getattr(caller, over.lower())(sent)
        except Exception as unexpected:  # noqa: BLE001  # of the line's own test
            found[what, over] = unexpected
    assert stack.child("triton").is_running
    assert stack.child("triton").pid == pid
    return found


def test_every_line_is_sent() -> None:
    assert set(SENT) == set(ROWS)


@pytest.mark.parametrize("key", SENT, ids=": ".join)
def test_a_line_is_answered_as_it_says(answers: Mapping[Key, Found | Exception], key: Key) -> None:
    found, row = answers[key], ROWS[key]
    if isinstance(found, Exception):
        raise found
    assert (found.answer, found.sentence) == (row.answer, row.sentence)
    assert not HARMFUL.search(found.sentence)


def test_the_ledger_says_of_each_what_the_line_says(stack: Stack, answers: Mapping[Key, Found | Exception]) -> None:
    decisions = {found.decision: key for key, found in answers.items() if isinstance(found, Found) and found.decision}
    with ledger(stack) as database:
        wait_for(lambda: len(_outcomes(database, list(decisions))) == len(decisions), 60)
        outcomes = _outcomes(database, list(decisions))
    said = {key: outcomes[decision] for decision, key in decisions.items()}
    undecided = {key: "nothing" for key in answers if key not in said}
    assert said | undecided == {key: row.ledger for key, row in ROWS.items()}


@contextmanager
def ledger(stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.addresses.database_url, autocommit=True) as database:
        yield database


def _outcomes(database: psycopg.Connection, decisions: list[str]) -> dict[str, str]:
    """Of those that are settled: refused, or answered by whoever."""
    query = """
        SELECT decision_id::text, CASE reason WHEN 'allowed' THEN 'answered ' || answered ELSE reason END
        FROM usage_events LEFT JOIN call_outcomes USING (decision_id)
        WHERE decision_id = ANY(%s::uuid[]) AND (reason <> 'allowed' OR answered IS NOT NULL)
    """
    return dict(database.execute(query, (decisions,)).fetchall())


def row(what: str, over: str) -> Row:
    return ROWS[what, over]
