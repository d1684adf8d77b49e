"""Every line of docs/bad-input.md, through the real Envoy: what the caller gets, and what the ledger says of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from devstack.stack.stack import Stack
from tests.docs.bad_input import ROWS
from tests.e2e.stack.bad_caller import HARMFUL, BadCaller, Found, Key, ensure_in_ledger
from tests.e2e.stack.bad_requests import GRPC, REST, STREAM
from tests.e2e.stack.test_unavailable import OF_THE_SERVER

SLOW = {("a body that comes too slowly", over) for over in ("REST", "gRPC")}
"""tests/e2e/render/test_local_replies.py: here it would take a minute."""
SENT = {
    **{(what, "REST"): sent for what, sent in REST.items()},
    **{(what, "gRPC"): sent for what, sent in GRPC.items()},
    **{(what, "stream"): sent for what, sent in STREAM.items()},
}


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
    assert {*SENT, *OF_THE_SERVER, *SLOW} == set(ROWS)


@pytest.mark.parametrize("key", SENT, ids=": ".join)
def test_a_line_is_answered_as_it_says(answers: Mapping[Key, Found | Exception], key: Key) -> None:
    found, row = answers[key], ROWS[key]
    if isinstance(found, Exception):
        raise found
    assert (found.answer, found.sentence) == (row.answer, row.sentence)
    assert not HARMFUL.search(found.sentence)


def test_the_ledger_says_of_each_what_the_line_says(stack: Stack, answers: Mapping[Key, Found | Exception]) -> None:
    decisions = {key: found.decision for key, found in answers.items() if isinstance(found, Found) and found.decision}
    assert {key for key in answers if key not in decisions} == {key for key in SENT if ROWS[key].ledger == "nothing"}
    ensure_in_ledger(stack, decisions)


def test_operators_find_a_call_that_failed(stack: Stack, answers: Mapping[Key, Found | Exception]) -> None:
    found = answers["a wrong shape", "REST"]
    assert isinstance(found, Found)
    command = [sys.executable, "-m", "ext_authz", "explain", found.decision]
    said = subprocess.run(command, env=os.environ | stack.variables, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^  answered  400 after \d+ ms; via_upstream$", said, re.MULTILINE)
