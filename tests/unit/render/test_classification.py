"""`classification.lua` in the engine that Envoy runs it in: which inferences ask for what would end Triton."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest

from ext_authz.render.filters import answers
from tests.unit.render.policies import demo

REST = "/v2/models/cancer/infer"
MESSAGE = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ASKED = b"classification"

# Of Envoy's Lua API what the script uses of a request. The first part of a body is what has arrived as a whole.
_ENVOY = """
local function buffer(parts, number)
  local one = {}
  function one:length() return #parts[number] end
  function one:getBytes(index, length)
    assert(index >= 0 and index + length <= #parts[number])
    return parts[number]:sub(index + 1, index + length)
  end
  function one:setBytes(bytes) parts[number] = bytes end
  return one
end

function asked(path, kind, parts)
  local handle, info, said = {}, {}, nil
  local request = { [":method"] = "POST", [":path"] = path, ["content-type"] = kind }
  function handle:headers()
    local map = {}
    function map:get(name) return request[name] end
    function map:replace(name, value) request[name] = value end
    return map
  end
  function info:dynamicMetadata()
    local none = {}
    function none:get() return nil end
    function none:set() end
    return none
  end
  function handle:streamInfo() return info end
  function handle:body() return #parts > 0 and buffer(parts, 1) or nil end
  function handle:bodyChunks()
    local number = 0
    return function()
      number = number + 1
      return number <= #parts and buffer(parts, number) or nil
    end
  end
  function handle:respond(headers, body) said = (headers["grpc-message"] or body) end
  envoy_on_request(handle)
  return said, parts
end
"""
_LUA = LuaRuntime(encoding="latin-1", register_eval=False)
_LUA.execute(answers(demo())["typed_config"]["default_source_code"]["inline_string"])
_LUA.execute(_ENVOY)


def asked(path: str, *parts: bytes) -> tuple[str, bytes]:
    """What is said to the caller, and what Triton gets if it is nothing."""
    kind = "application/json" if path == REST else "application/grpc+proto"
    said, left = _LUA.globals()["asked"](path, kind, _LUA.table_from([part.decode("latin-1") for part in parts]))
    return said or "", "".join(left.values()).encode("latin-1")


def frame(message: ModelInferRequest | bytes) -> bytes:
    content = message if isinstance(message, bytes) else message.SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


def asking(key: str = ASKED.decode(), name: str = "label") -> ModelInferRequest:
    message = ModelInferRequest(model_name="m", raw_input_contents=[b"\x0a\x0eclassification" * 3])
    message.inputs.add(name="classification", shape=[1, 1]).parameters["classification"].int64_param = 1
    message.outputs.add(name=name).parameters[key].CopyFrom(InferParameter(int64_param=3))
    return message


@pytest.mark.parametrize(
    "key",
    [
        '"classification":',
        '"classification"\r\n\t :',
        '"classif\\u0069cation":',
        '"\\u0063\\u006C\\u0061ssification" :',
    ],
)
def test_json_that_asks_is_refused(key: str) -> None:
    body = f'{{"inputs":[],"outputs":[{{"name":"classification","parameters":{{{key}1}}}}]}}'
    said, _ = asked(REST, body.encode())
    problem = json.loads(said)
    assert (problem["status"], problem["code"]) == (400, "invalid_inference_request")
    assert problem["detail"].startswith("an output asks for a classification")


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{"name": "text", "data": ["classification", '"classification": 3', "\\u0063lassification"]}]},
        {"outputs": [{"name": "classification", "parameters": {"Classification": 3, "classification\0": 1}}]},
        {"inputs": [{"data": ["größe \u0063 \u007f"]}]},
    ],
)
def test_json_that_does_not_passes(body: object) -> None:
    sent = json.dumps(body).encode()
    assert asked(REST, sent) == ("", sent)
    assert asked("/v2/models/m", b'{"classification": 1}')[0] == ""
    assert asked(REST) == ("", b"")


def test_a_message_that_asks_is_refused() -> None:
    assert asked(MESSAGE, frame(asking()))[0].startswith("invalid_inference_request: an output asks for a classific")
    assert asked("/other.Service/ModelInfer", frame(asking()))[0] == ""


@pytest.mark.parametrize("key", ["Classification", "classificatio", "classifications", ""])
def test_a_message_that_does_not_passes(key: str) -> None:
    sent = frame(asking(key, name="classification"))
    assert asked(MESSAGE, sent) == ("", sent)
    assert asked(STREAM, sent) == ("", sent)


# A key, a parameter, and an output, in forms that no library writes and every reader accepts.
_KEYS = (b"\x0a\x0e", b"\x8a\x00\x0e", b"\x0a\x8e\x80\x00", b"\x12\x02\x10\x03\x0a\x0e")


@pytest.mark.parametrize("start", _KEYS)
def test_it_is_found_in_every_form_that_protobuf_reads(start: bytes) -> None:
    entry = start + ASKED
    output = b"\x12" + bytes([len(entry)]) + entry
    message = b"\x0a\x01m" + b"\x32" + bytes([len(output)]) + output
    read = ModelInferRequest.FromString(message)
    assert "classification" in read.outputs[0].parameters
    assert "a classification" in asked(MESSAGE, frame(message))[0]


@given(st.lists(st.integers(1, 200), max_size=12), st.integers(0, 2))
def test_in_a_stream_the_word_is_made_unknown_however_it_is_cut(cuts: Sequence[int], before: int) -> None:
    sent = frame(asking("other")) * before + frame(asking()) + frame(asking("other"))
    parts, rest = [], sent
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    said, left = asked(STREAM, *parts, rest)
    assert (said, len(left)) == ("", len(sent))
    messages = list(_messages(left))
    assert [dict.fromkeys(one.outputs[0].parameters) for one in messages[before:]] == [
        {"classificatioN": None},
        {"other": None},
    ]
    assert all(one.raw_input_contents[0].count(ASKED) == 3 for one in messages)


def _messages(frames: bytes) -> Any:  # noqa: ANN401  # a generator of messages
    while frames:
        end = 5 + int.from_bytes(frames[1:5], "big")
        yield ModelInferRequest.FromString(frames[5:end])
        frames = frames[end:]


@pytest.mark.parametrize(
    "message",
    [
        b"\x32\x80\x80\x80\x80\x08" + b"\x32\x02\x12\x00",  # longer than what follows
        b"\x32\x04\x12\x7f\x0a\x0e" + ASKED,
        b"\x33\x34",  # a group
        b"\x37",
        b"\xff" * 20,
        b"\x32\x00" * 70_000,
    ],
)
def test_what_cannot_be_read_is_refused_and_in_a_stream_it_is_no_message(message: bytes) -> None:
    assert "cannot be read as a ModelInferRequest" in asked(MESSAGE, frame(message))[0]
    after = frame(asking("other"))
    said, left = asked(STREAM, frame(message) + after)
    assert (said, left[-len(after) :]) == ("", after)
    assert ASKED not in left[: -len(after)]
