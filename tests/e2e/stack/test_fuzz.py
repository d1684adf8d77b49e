"""Good requests with some things wrong: whatever they are, each is answered, with nothing of the server's inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest

from devstack.demo.participants import EXAMPLES
from devstack.stack.stack import Stack
from tests.e2e.stack.bad_caller import HARMFUL, PATIENCE, BadCaller
from tests.e2e.stack.bad_requests import Call, Rest, body, element, message, text_message


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Iterator[BadCaller]:
    with BadCaller(stack) as someone:
        yield someone


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


_TYPES = st.sampled_from(
    ["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "", "fp32", "x" * 99]
)
_NAMES = st.sampled_from(["features", "text", "pixels", "label", ""]) | st.text(max_size=20)
_SIZES = st.sampled_from([-(2**63), -1, 0, 1, 2, 29, 30, 31, 256, 257, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1])
_PARAMETERS = st.sampled_from([
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data", "classification"),
    *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "triton_enable_empty_final_response"),
]) | st.text(max_size=20)  # fmt: skip
_PARAMETER = st.one_of(
    st.booleans().map(lambda value: InferParameter(bool_param=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: InferParameter(int64_param=value)),
    st.text(max_size=20).map(lambda value: InferParameter(string_param=value)),
    st.floats().map(lambda value: InferParameter(double_param=value)),
    st.integers(0, 2**64 - 1).map(lambda value: InferParameter(uint64_param=value)),
    st.just(InferParameter()),
)
_CONTENTS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=20),
}


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Of a good one, fields changed; then bytes."""
    whole = ModelInferRequest.FromString(draw(st.sampled_from([message(), text_message(element(b"fine"))])))
    for _ in range(draw(st.integers(0, 4))):
        draw(st.sampled_from([_call, _input, _contents, _raw, _output, _more]))(draw, whole)
    sent = bytes(whole.SerializeToString())
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(sent)))
        sent = sent[:at] + draw(st.binary(max_size=8)) + sent[at + draw(st.integers(0, 8)) :]
    return sent


def _call(draw: st.DrawFn, whole: Any) -> None:  # noqa: ANN401  # what protobuf makes has no types
    whole.model_name = draw(st.sampled_from(["cancer", "sentiment", "digits", "nothing", "", "../cancer"]))
    whole.model_version = draw(st.sampled_from(["", "1", "2", "99", "01", "x", "9" * 30]))
    whole.id = draw(st.text(max_size=20))


def _input(draw: st.DrawFn, whole: Any) -> None:  # noqa: ANN401
    one = whole.inputs.add() if not whole.inputs or draw(st.booleans()) else whole.inputs[0]
    one.name, one.datatype = draw(_NAMES), draw(_TYPES)
    one.shape[:] = draw(st.lists(_SIZES, max_size=5))


def _contents(draw: st.DrawFn, whole: Any) -> None:  # noqa: ANN401
    kind = draw(st.sampled_from([*_CONTENTS]))
    for one in whole.inputs[:1]:
        getattr(one.contents, kind).extend(draw(st.lists(_CONTENTS[kind], max_size=4)) * draw(st.integers(1, 10)))
    if draw(st.booleans()):
        del whole.raw_input_contents[:]


def _raw(draw: st.DrawFn, whole: Any) -> None:  # noqa: ANN401
    whole.raw_input_contents[:] = draw(st.lists(st.binary(max_size=200) | st.just(bytes(120)), max_size=3))


def _output(draw: st.DrawFn, whole: Any) -> None:  # noqa: ANN401
    whole.outputs.add(name=draw(_NAMES))


def _more(draw: st.DrawFn, whole: Any) -> None:  # noqa: ANN401
    for place in draw(st.sampled_from([[whole], whole.inputs[:1], whole.outputs[:1]])):
        place.parameters[draw(_PARAMETERS)].CopyFrom(draw(_PARAMETER))


def _is_message(sent: bytes) -> bool:
    try:
        ModelInferRequest.FromString(sent)
    except DecodeError:
        return False
    return True


_EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"}
"""And with a short deadline, that it is over."""


def test_no_mutant_of_a_good_message_does_harm(stack: Stack, caller: BadCaller) -> None:
    """All users together may call a hundred times a minute: few calls, and streams with many messages each."""
    pid = stack.child("triton").pid

    @settings(max_examples=25, derandomize=True, database=None, deadline=None)
    @given(sent=messages(), seconds=st.sampled_from([PATIENCE, PATIENCE, 0.001, 0.02]))
    def is_answered(sent: bytes, seconds: float) -> None:
        found = caller.grpc(Call(sent), seconds)
        assert found.answer in _EXPECTED | ({"DEADLINE_EXCEEDED"} if seconds < PATIENCE else set()), found
        assert not HARMFUL.search(found.sentence)

    @settings(max_examples=40, derandomize=True, database=None, deadline=None)
    @given(sent=st.lists(messages(), min_size=1, max_size=10))
    def is_streamed(sent: list[bytes]) -> None:
        *found, end = caller.streamed(sent)
        assert end.answer == "ends"
        assert len(found) >= len(sent) or not all(map(_is_message, sent))
        assert not [one for one in found if HARMFUL.search(one.sentence)]

    is_answered()
    is_streamed()
    assert (stack.child("triton").is_running, stack.child("triton").pid) == (True, pid)
