"""Every line of docs/bad-input.md, through the real Envoy: what the caller gets, and what the ledger says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.demo.participants import EXAMPLES
from devstack.stack.stack import Stack
from tests.docs.bad_input import ROWS
from tests.e2e.stack.bad_caller import BadCaller, Found, Key, ensure_in_ledger
from tests.e2e.stack.bad_requests import GRPC, REST, STREAM, Rest, body
from tests.e2e.stack.test_unavailable import OF_THE_SERVER

pytestmark = pytest.mark.timeout(300)

SLOW = {("a body that comes too slowly", over) for over in ("REST", "gRPC")}
"""tests/e2e/render/test_local_replies.py: here it would take a minute."""
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


# A fuzz: a good request over REST with some things wrong.
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_MORE = {"outputs": [{"name": "label", "parameters": {"binary_data": False}}], "id": "a", "parameters": {"a": 1}}
_PIXELS = {"name": "pixels", "shape": [1, 64], "data": EXAMPLES["digits"]["pixels"]}
_GOOD = {
    **{f"/v2/models/{path}/infer": json.dumps(body(_MORE)) for path in ("cancer/versions/1", "cancer/versions/2")},
    **{f"/v2/models/{path}/infer": json.dumps(body(_MORE, **_PIXELS)) for path in ("digits", "digits/versions/1")},
}
"""By path: in one minute, each serves a hundred calls."""
_MEMBERS = st.sampled_from(["parameters", "classification", "binary_data_size", "shape", "data", "x"])


@st.composite
def mutants(draw: st.DrawFn) -> Rest:
    """Members replaced, left out and added; then bytes, and what is said of the body."""
    path = draw(st.sampled_from([*_GOOD]))
    whole = json.loads(_GOOD[path])
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(list(_places(whole))))
        names: list[Any] = [*place] if isinstance(place, dict) else [*range(len(place))]
        change = draw(st.sampled_from(["add", "leave out", "replace"]))
        if change == "add" and isinstance(place, dict):
            place[draw(_MEMBERS)] = draw(_VALUES)
        elif change == "leave out" and names:
            del place[draw(st.sampled_from(names))]
        elif names:
            place[draw(st.sampled_from(names))] = draw(_VALUES)
    sent = json.dumps(whole).encode()
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(sent)))
        sent = sent[:at] + draw(st.binary(max_size=8)) + sent[at + draw(st.integers(0, 8)) :]
    length = draw(st.none() | st.integers(-2, len(sent) + 2) | st.text("0123456789-+. x", min_size=1, max_size=20))
    headers = {} if length is None else {"inference-header-content-length": str(length).strip()}
    return Rest(sent, headers, path)


def _places(value: Any) -> Iterator[Any]:  # noqa: ANN401  # JSON
    """Every object and array in it, and itself."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _places(inner)


def test_no_mutant_of_a_good_request_does_harm(stack: Stack, caller: BadCaller) -> None:
    pid = stack.child("triton").pid

    @settings(max_examples=150, derandomize=True, database=None, deadline=None)
    @given(sent=mutants())
    def is_harmless(sent: Rest) -> None:
        found = caller.rest(sent)
        assert found.answer == "200" or found.answer.startswith("4"), found
        assert not HARMFUL.search(found.sentence)

    is_harmless()
    assert (stack.child("triton").is_running, stack.child("triton").pid) == (True, pid)
