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

from ext_authz.render.endpoints import Timeouts
from ext_authz.render.filters import answers
from tests.unit.render.policies import demo
from tests.unit.render.test_answers import broken_at

REST = "/v2/models/cancer/infer"
MESSAGE = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ASKED = b"classification"

# Of Envoy's Lua API what the script uses of a request. The first part of a body is what has arrived as a whole.
_ENVOY = """
copied = 0
local function buffer(parts, number)
  local one = {}
  function one:length() return #parts[number] end
  function one:getBytes(index, length)
    copied = copied + length
    assert(index >= 0 and index + length <= #parts[number])
    return parts[number]:sub(index + 1, index + length)
  end
  function one:setBytes(bytes)
    copied = copied + #bytes
    parts[number] = bytes
  end
  return one
end

function asked(path, kind, parts)
  local handle, info, said = {}, {}, nil
  local request = { [":method"] = "POST", [":path"] = path, ["content-type"] = kind }
  function handle:headers()
    local map = {}
    function map:get(name) if request[name] then return request[name] end end
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
    handle.has_gone_on = true
    return function()
      number = number + 1
      return number <= #parts and buffer(parts, number) or nil
    end
  end
  function handle:respond(headers, body)
    assert(not handle.has_gone_on, "the headers of the request have gone on")
    said = (headers["grpc-message"] or body)
  end
  function handle:logErr() end
  envoy_on_request(handle)
  return said, parts
end
"""
LARGEST = 100_000
"""Bytes of a message here."""
_SCRIPT = answers(demo(), Timeouts(grpc_bytes=LARGEST))["typed_config"]["default_source_code"]["inline_string"]


def _runtime(broken: str = "") -> LuaRuntime:
    lua = LuaRuntime(encoding="latin-1", register_eval=False)
    lua.execute(broken_at(broken, _SCRIPT))
    lua.execute(_ENVOY)
    return lua


_LUA = _runtime()


def asked(path: str, *parts: bytes, lua: LuaRuntime = _LUA) -> tuple[str, bytes]:
    """What is said to the caller, and what Triton gets if it is nothing."""
    kind = "application/json" if path == REST else "application/grpc+proto"
    said, left = lua.globals()["asked"](path, kind, lua.table_from([part.decode("latin-1") for part in parts]))
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


@pytest.mark.parametrize(
    "path", ["/v2/models/m/generate", "/v2/models/m/versions/1/generate_stream", "/v2/models/m/generate?x"]
)
@pytest.mark.parametrize("body", ['{%s: "m"}', '{"text": "", "parameters": {%s\n: "m"}}', '{"a": "\\"", %s :"m"}'])
@pytest.mark.parametrize("key", ['"x-authz-model"', '"x\\u002Dauthz\\u002dmodel"', '"\\u0078-\\u0061uthz-mode\\u006C"'])
def test_a_generation_names_no_authorisation(path: str, body: str, key: str) -> None:
    """Triton would pass it to the model like the header of the authorizer, and with it whoever else the caller says."""
    problem = json.loads(asked(path, (body % key).encode())[0])
    assert (problem["status"], problem["code"]) == (400, "invalid_inference_request")
    assert problem["detail"].startswith("the body has a member x-authz-model")


def test_a_generation_may_speak_of_it() -> None:
    sent = json.dumps({"text_input": 'what is "x-authz-model": in a header?', "x-authz-models": 1}).encode()
    assert asked("/v2/models/m/generate", sent) == ("", sent)
    assert asked("/v2/models/m/generate") == ("", b"")


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
        b"\x32\x00" * 40_000 + b"\x33",
    ],
)
def test_what_cannot_be_read_is_refused_and_in_a_stream_it_is_no_message(message: bytes) -> None:
    assert "cannot be read as a ModelInferRequest" in asked(MESSAGE, frame(message))[0]
    after = frame(asking("other"))
    said, left = asked(STREAM, frame(message) + after)
    assert (said, left[-len(after) :]) == ("", after)
    assert ASKED not in left[: -len(after)]


def test_a_message_of_too_many_fields_is_none() -> None:
    lua = LuaRuntime(encoding="latin-1", register_eval=False)
    lua.execute(_SCRIPT.replace("MOST_FIELDS = 65536", "MOST_FIELDS = 100") + _ENVOY)
    assert asked(MESSAGE, frame(b"\x32\x00" * 100), lua=lua)[0] == ""
    assert "of at most 100 fields" in asked(MESSAGE, frame(b"\x32\x00" * 101), lua=lua)[0]


@given(st.integers(1, 300), st.sampled_from(["other", "classification"]))
def test_in_a_stream_a_message_that_is_too_large_is_left_out(size: int, last: str) -> None:
    large = ModelInferRequest(model_name="m", raw_input_contents=[b"x" * LARGEST])
    sent = frame(asking("other")) + frame(large) + frame(asking(last))
    parts = [sent[at : at + size] for at in range(0, 700, size)]
    said, left = asked(STREAM, *parts, sent[len(b"".join(parts)) :])
    before, instead, after = _messages(left)
    assert (said, before) == ("", asking("other"))
    assert instead == ModelInferRequest(model_name=f"the message is larger than {LARGEST} bytes")
    assert after == asking(last.replace("classification", "classificatioN"))


@pytest.mark.parametrize("path", [MESSAGE, STREAM])
@pytest.mark.parametrize("junk", [b"", b"\xff\xff"])
def test_what_callers_send_copies_no_buffer_again_and_again(path: str, junk: bytes) -> None:
    """A worker of Envoy does nothing else meanwhile."""
    entries = (b"\x12\x10\x0a\x0e" + ASKED) * 3000
    output = b"\x32" + _varint(len(entries)) + entries
    sent = frame(b"\x3a\x80\x40" + bytes(8192) + output) if not junk else frame(junk) * 5000
    globals_ = _LUA.globals()
    globals_["copied"] = 0
    asked(path, sent)
    assert globals_["copied"] < 5 * len(sent)


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number % 128 + 128]), number // 128
    return found + bytes([number])


@pytest.mark.parametrize("broken", ["has_member", "wrong_over_rest", "ask", "source", "walk", "opened", "byte"])
def test_a_script_that_fails_lets_nothing_pass(broken: str) -> None:
    """Envoy would pass the call as it is."""
    lua = _runtime(broken)
    if broken in ("has_member", "wrong_over_rest", "ask"):
        problem = json.loads(asked(REST, b"{}", lua=lua)[0])
        assert (problem["status"], problem["code"]) == (503, "proxy_failed")
    if broken not in ("has_member", "wrong_over_rest"):
        assert asked(MESSAGE, frame(asking("other")), lua=lua)[0].startswith("proxy_failed: the proxy could not read")
    if broken not in ("has_member", "wrong_over_rest", "ask"):
        assert asked(STREAM, frame(asking()), frame(asking()), lua=lua) == ("", b"")
