"""Lines to paste: a shell and Python read exactly what was typed, whatever that is."""

from __future__ import annotations

import ast
import json
import shlex
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from ext_authz.console.equivalents import Call, curl, grpc, python
from ext_authz.console.model_inputs import Tensor
from tollgate.client import tensors as of_client

DOOR = "https://models.example"
HOSTILE = ["'; rm -rf / #", "$(id)", "`id`", "\\", "\n", '"', "'\"'\"'", "!!", "@/etc/passwd", ""]
HOSTILE += ["\x1b[2J", "\x7f", "\u202e", "\u00e9"]

texts = st.sampled_from(HOSTILE) | st.text()
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
numbers = floats.map(lambda number: int(number) if number.is_integer() and abs(number) < 1e15 else number)
values = st.one_of(
    st.tuples(st.just("BYTES"), st.lists(texts, min_size=1, max_size=5)),
    st.tuples(st.just("FP32"), st.lists(numbers, min_size=1, max_size=5)),
    st.tuples(st.just("INT64"), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)),
    st.tuples(st.just("UINT8"), st.lists(st.integers(0, 255), min_size=1, max_size=5)),
    st.tuples(st.just("BOOL"), st.lists(st.booleans(), min_size=1, max_size=5)),
)
tensors = st.builds(
    lambda name, value: Tensor(name, value[0], (1, len(value[1])), tuple(value[1])), texts.filter(bool), values
)
calls = st.builds(
    Call,
    st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True),
    st.sampled_from(["", "1", "12"]),
    st.lists(tensors, min_size=1, max_size=3, unique_by=lambda each: each.name),
)


@given(calls)
def test_a_shell_gives_curl_what_was_typed(call: Call) -> None:
    line = curl(DOOR, call)
    command, silent, url, header, token, data, body = _words(line)
    assert (command, silent, header, data) == ("curl", "-s", "-H", "-d")
    assert (url, token) == (DOOR + call.path, "Authorization: Bearer $TOKEN")
    assert json.loads(body) == json.loads(json.dumps(call.body()))
    assert not body.startswith("@"), "curl would read a file"


@given(calls)
def test_a_shell_gives_grpcurl_the_same_message(call: Call) -> None:
    command, flag, proto, header, token, data, body, where, method = _words(grpc(DOOR, call))
    assert [command, flag, proto, header, data] == ["grpcurl", "-proto", "grpc_service.proto", "-H", "-d"]
    assert (token, where, method) == (
        "authorization: Bearer $TOKEN",
        "models.example:443",
        "inference.GRPCInferenceService/ModelInfer",
    )
    message = _message(json.loads(body))
    assert (message.model_name, message.model_version) == (call.model, call.version)
    for sent, tensor in zip(message.inputs, call.tensors, strict=True):
        assert (sent.name, sent.datatype, tuple(sent.shape)) == (tensor.name, tensor.datatype, tensor.shape)
        ((_, contents),) = sent.contents.ListFields()
        assert [each.decode() if isinstance(each, bytes) else each for each in contents] == [*tensor.data]


def _message(said: dict[str, Any]) -> service_pb2.ModelInferRequest:
    """As grpcurl makes one of JSON; with bytes as bytes, since `tritonclient` brings its own classes."""
    from google.protobuf import json_format

    return json_format.ParseDict(said, service_pb2.ModelInferRequest())


@given(calls)
def test_python_gives_the_client_the_same_arrays(call: Call) -> None:
    text = python(DOOR, call)
    assert text.isascii()
    tree = ast.parse(text)
    assert [type(node) for node in tree.body] == [ast.Import, ast.Import, ast.ImportFrom, ast.Assign, ast.With]
    made = eval(ast.unparse(tree.body[3].value), {"numpy": np})  # type: ignore[attr-defined]
    assert [*made] == [tensor.name for tensor in call.tensors]
    for tensor in call.tensors:
        array = of_client.array(made[tensor.name])
        assert np_to_triton_dtype(array.dtype) == tensor.datatype
        assert array.shape == tensor.shape
        assert array.ravel().tolist() == [*tensor.data]
    assert f"infer({call.model!a}, inputs{f', version={call.version!a}' if call.version else ''})" in text


@given(calls)
def test_nothing_in_a_line_does_anything_to_a_terminal(call: Call) -> None:
    for line in (curl(DOOR, call), python(DOOR, call), grpc(DOOR, call)):
        assert all(character == "\n" or " " <= character <= "~" for character in line)


def _words(line: str) -> list[str]:
    """As a shell reads it, but for TOKEN. A shell takes an escaped end of line away."""
    words = shlex.split(line)
    return [word for word in words if word != "\n"]


@pytest.mark.parametrize(
    ("door", "where"),
    [
        ("http://127.0.0.1:8080", "grpcurl -plaintext -proto"),
        ("http://models", " models:80 "),
        ("https://[::1]:8443", "'[::1]:8443'"),
    ],
)
def test_grpc_goes_to_the_same_place(door: str, where: str) -> None:
    assert where in grpc(door, Call("m", "", [Tensor("x", "FP32", (1,), (1,))]))


def test_a_line_is_as_people_write_it() -> None:
    call = Call("sentiment", "", [Tensor("text", "BYTES", (1, 1), ("I love it",))])
    assert curl(DOOR, call) == (
        'curl -s https://models.example/v2/models/sentiment/infer -H "Authorization: Bearer $TOKEN" \\\n'
        '  -d \'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}\''
    )
    assert b64encode(b"I love it").decode() in grpc(DOOR, call)
