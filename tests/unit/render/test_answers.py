"""`answers.lua` in the engine that Envoy runs it in: what callers get of Triton's answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

from ext_authz.render.endpoints import Timeouts
from ext_authz.render.filters import answers
from tests.unit.render.policies import demo

DECISION_ID = "01a1f90a-d880-7b90-ac41-dd5d1119f28a"
IN_DECISION = f" (decision {DECISION_ID})"
JSON, GRPC = "application/json", "application/grpc"

# Of Envoy's Lua API what the script uses, no more forgiving than Envoy: headers are out of scope once a body was waited
# for, a header that is not there is not even nil, and what was buffered has no chunks.
_ENVOY = """
logged = {}
local function map(values, scope)
  local made = scope.turn
  local one = {}
  function one:get(name)
    assert(made == scope.turn, "out of scope")
    if values[name] then return values[name] end
  end
  function one:replace(name, value) assert(made == scope.turn, "out of scope") values[name] = value end
  return one
end

function answered(method, path, content_type, decision_id, headers, content, trailers, size)
  local scope, waited, metadata = { turn = 1 }, {}, {}
  if decision_id then metadata["envoy.filters.http.ext_authz"] = { decision_id = decision_id } end
  local info = {}
  function info:dynamicMetadata()
    local found = {}
    function found:get(space) return metadata[space] end
    function found:set(space, name, value) metadata[space] = metadata[space] or {} metadata[space][name] = value end
    return found
  end
  local request, handle = { [":method"] = method, [":path"] = path, ["content-type"] = content_type }, {}
  function handle:streamInfo() return info end
  function handle:headers() return map(request, scope) end
  function handle:body() scope.turn = scope.turn + 1 end
  function handle:bodyChunks() return function() end end
  function handle:logErr(text) logged[#logged + 1] = text end
  envoy_on_request(handle)

  local buffer = {}
  function buffer:length() return #content end
  function buffer:getBytes(index, length) return content:sub(index + 1, index + length) end
  function buffer:setBytes(bytes)
    content = bytes
    headers["content-length"] = tostring(#bytes)
  end
  function handle:headers() return map(headers, scope) end
  function handle:body()
    scope.turn, waited.body = scope.turn + 1, true
    return content ~= "" and buffer or nil
  end
  function handle:bodyChunks()
    assert(not waited.body)
    local at, whole, sent = 0, content, ""
    waited.chunks = true
    return function()
      scope.turn = scope.turn + 1
      if at >= #whole then content = sent return nil end
      local chunk, part, before = {}, whole:sub(at + 1, at + size), sent
      at, sent = at + #part, sent .. part
      function chunk:length() return #part end
      function chunk:getBytes(index, length) return part:sub(index + 1, index + length) end
      function chunk:setBytes(bytes) sent = before .. bytes end
      return chunk
    end
  end
  function handle:trailers()
    scope.turn, waited.trailers = scope.turn + 1, true
    return trailers and map(trailers, scope) or nil
  end
  envoy_on_response(handle)
  return request, headers, content, waited
end
"""


class Answered:
    def __init__(self, sent: dict[str, str], headers: dict[str, str], body: str, waited: set[str]) -> None:
        self.sent, self.headers, self.body, self.waited = sent, headers, body, waited
        self.method = sent[":method"]

    @property
    def problem(self) -> dict[str, Any]:
        problem: dict[str, Any] = json.loads(self.body.encode("latin-1"))
        return problem


def broken_at(function: str, script: str) -> str:
    """The script with one of its functions failing."""
    if not function:
        return script
    found, at = re.subn(rf"(local function {function}\(.*?\))\n", r"\1 error('/srv/secret')\n", script)
    assert at == 1
    return found


def answered(
    status: int,
    body: str = "",
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    method: str = "POST",
    path: str = "/v2/models/m/infer",
    content_type: str | None = None,
    trailers: dict[str, str] | None = None,
    decision_id: str | None = DECISION_ID,
    size: int = 1,
    broken: str = "",
) -> Answered:
    """What becomes of an answer with this status, body and headers. `size`: of its parts; `broken`: a function of the
    script that fails."""
    lua = LuaRuntime(encoding="latin-1", register_eval=False)
    lua.execute(broken_at(broken, answers(demo(), Timeouts())["typed_config"]["default_source_code"]["inline_string"]))
    lua.execute(_ENVOY)
    given = {":status": str(status), "content-type": JSON, "content-length": str(len(body))}
    in_lua = lua.table_from(
        {name: value for name, value in (given | dict(headers)).items() if value or name != "content-length"}
    )
    rest = lua.table_from(trailers) if trailers is not None else None
    sent, got, content, waited = lua.globals()["answered"](
        method, path, content_type, decision_id, in_lua, body, rest, size
    )
    found = dict(got.items()) | (dict(rest.items()) if rest is not None else {})
    return Answered(dict(sent.items()), found, content, set(waited))


def error(text: str) -> str:
    return json.dumps({"error": text}, separators=(",", ":"))


@pytest.mark.parametrize(
    ("status", "text", "becomes", "code"),
    [
        (400, "unexpected inference input 'nope' for model 'm'", 400, "invalid_inference_request"),
        (404, "Request for unknown model: 'nope' is not found", 404, "not_found"),
        (405, "Method Not Allowed", 405, "method_not_allowed"),
        (503, "Exceeds maximum queue size", 503, "model_unavailable"),
        (500, "the model failed", 500, "model_failed"),
        (501, "decoupled", 501, "model_failed"),
        (500, "failed to parse the request JSON buffer: Invalid value. at 1", 400, "invalid_inference_request"),
        (500, "Unable to parse 'inputs': attempt to access non-existing object", 400, "invalid_inference_request"),
        (500, "Unable to set 'binary_data': attempt to access JSON non-boolean", 400, "invalid_inference_request"),
        (500, "failed to get request params.: attempt to get members", 400, "invalid_inference_request"),
        (404, "Unable to parse 'inputs': elsewhere", 404, "not_found"),
        (500, 'a "quoted" text\twith é and \\ in it', 500, "model_failed"),
    ],
)
def test_an_error_becomes_a_problem(status: int, text: str, becomes: int, code: str) -> None:
    found = answered(status, error(text), {"content-type": "text/plain"})

    assert found.headers[":status"] == str(becomes)
    assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["content-length"] == str(len(found.body))
    title = found.problem.pop("title")
    assert title
    retried = {"retry_after": 1} if becomes == 503 else {}
    assert found.headers.get("retry-after") == ("1" if retried else None)
    assert found.problem == {
        "type": f"urn:tollgate:problem:{code}",
        "title": title,
        "status": becomes,
        "detail": text,
        "code": code,
        "error": text + IN_DECISION,
        "decision_id": DECISION_ID,
        **retried,
    }


_AS_IT_IS = " '()/:;,[]"
"""Of gRPC messages, beside letters and digits."""
SCRUBBED = {
    "ValueError: boom\n\nAt:\n  /srv/models/m/1/model.py(33): execute\n": "ValueError: boom",
    "cannot open '/srv/models/m/1/w.bin'": "cannot open 'w.bin'",
    "/srv/models/m/w.bin: no such file": "w.bin: no such file",
    "a (/opt/x/y), /opt/z/w": "a (y), w",
    "no library:\n/opt/x/y.so\n\t/opt/z/w": "no library:\ny.so\n\tw",
    "[request id: <id_unknown>] wrong shape. NOTE: Setting a non-zero max_batch_size in the model": "wrong shape.",
    "[request id: a] b] wrong [1, 2]": "b] wrong [1, 2]",
    "at file:///srv/models/m/1/x and unix:///run/t/http.": "at file: x and unix: http.",
    "in /srv/my+models@1/größe/m.py, '/srv/a~b/c'": "in m.py, 'c'",
    "\x0b/srv/models/m\x08/srv/models/n": "\x0bm\x08n",
    "no application/json; and/or, 1/2, http://docs.example/errors": "no application/json; and/or, 1/2, http://docs.example/errors",
}


@pytest.mark.parametrize(("text", "kept"), SCRUBBED.items())
def test_callers_see_no_traceback_and_no_paths(text: str, kept: str) -> None:
    assert answered(500, error(text)).problem["detail"] == kept
    encoded = quote(text, safe=_AS_IT_IS)
    found = answered(200, "", {"content-type": GRPC}, trailers={"grpc-status": "13", "grpc-message": encoded})
    assert found.headers["grpc-message"] == quote(kept, safe=_AS_IT_IS) + IN_DECISION


@pytest.mark.parametrize(
    "quoted",
    [
        f"/a/{'x' * 60_000}/y",
        f"/a/{'x' * 60_000}",
        "'/a" * 20_000,
        "\\n/a" * 8_000,
        '"' * 30_000,
        " " * 60_000,
        "é" * 9_000,
    ],
)
def test_no_error_takes_long(quoted: str) -> None:
    """A worker of Envoy does nothing else meanwhile, and callers choose what a model server quotes: names of inputs."""
    began = time.process_time()
    found = answered(400, error(f"unexpected inference input '{quoted}' for model 'm'"))
    assert time.process_time() - began < 3
    assert "unexpected inference input" in found.body
    message = {
        "grpc-status": "3",
        "grpc-message": quote(f"unexpected inference input '{quoted}' for model 'm'")[:60_000],
    }
    answered(200, headers={"content-type": GRPC}, trailers=message)
    assert time.process_time() - began < 6


def test_a_caller_cannot_pass_a_message_off_as_ours() -> None:
    said = "cannot open /srv/models/w.bin for 'x (decision 1)"
    found = answered(200, "", {"content-type": GRPC}, trailers={"grpc-status": "3", "grpc-message": said})
    assert found.headers["grpc-message"] == f"cannot open w.bin for 'x (decision 1){IN_DECISION}"


def test_without_a_decision_none_is_named() -> None:
    problem = answered(404, error("no"), decision_id=None).problem
    assert (problem["error"], "decision_id" in problem) == ("no", False)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, error("an output of that name"), {}),
        (200, '{"outputs":[]}', {}),
        (302, error("elsewhere"), {}),
        (403, error("by the authorizer"), {"content-type": "application/problem+json"}),
        (200, "no length", {"content-length": ""}),
    ],
)
def test_other_answers_are_not_even_read(status: int, body: str, headers: Mapping[str, str]) -> None:
    found = answered(status, body, headers, path="/invocations")
    assert (found.body, found.headers[":status"], found.waited) == (body, str(status), set())


def test_a_model_whose_process_has_ended_is_unavailable_and_nothing_of_it_is_named() -> None:
    said = "Failed to process the request(s) for model instance 'm_0_0', message: Stub process 'm_0_0' is not healthy."
    found = answered(500, error(said))
    again = "the process of the model has ended and is started again: try again"
    assert (found.headers[":status"], found.headers["retry-after"]) == ("503", "1")
    assert (found.problem["code"], found.problem["detail"]) == ("model_unavailable", again)
    found = answered(200, "", {"content-type": GRPC}, trailers={"grpc-status": "13", "grpc-message": said})
    assert found.headers["grpc-status"] == "14"
    assert found.headers["grpc-message"] == quote(again, safe=_AS_IT_IS) + IN_DECISION
    named = "unexpected inference input 'Stub process 'x' for model 'm'"
    assert answered(400, error(named)).problem["detail"] == named


@pytest.mark.parametrize(("length", "waited"), [("70000", {"chunks"}), ("", {"body"})])
def test_what_is_too_long_is_said_in_short(length: str, waited: set[str]) -> None:
    found = answered(400, error("unexpected " * 7000), {"content-length": length}, path="/v2/models/m/generate")
    assert found.problem["code"] == "invalid_inference_request"
    assert found.problem["detail"].startswith("the model server says more than 64 KiB")
    assert (found.headers["content-type"], found.headers["content-length"]) == (
        "application/problem+json",
        str(len(found.body)),
    )
    assert found.waited == waited


def test_an_error_in_chunks_is_a_problem_too() -> None:
    found = answered(500, error("in chunks"), {"content-length": ""})
    assert found.problem["detail"] == "in chunks"
    assert answered(500, "x" * 60_000, {"content-length": ""}, path="/invocations").body == "x" * 60_000


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("größe", "größe"),
        ("\u2028\U0001f600\ud7ff\ue000", "\u2028\U0001f600\ud7ff\ue000"),
        (b"a\xff\xfeb", "a?b"),
        (b"\xc3", "?"),
        (b"\xc0\xaf\xe0\x80\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \x80", "? ? ? ?"),
    ],
)
def test_a_name_that_is_not_utf_8_spoils_no_answer(name: str | bytes, kept: str) -> None:
    named = (name if isinstance(name, bytes) else name.encode()).decode("latin-1")
    found = answered(400, f'{{"error":"unexpected input {named}"}}')
    assert json.loads(found.body.encode("latin-1"))["detail"] == f"unexpected input {kept}"


@pytest.mark.parametrize("body", ["", "plain text", '{"message":"of another server"}', '["error"]'])
def test_errors_of_another_form_stay_as_they_are(body: str) -> None:
    found = answered(500, body)
    assert (found.body, found.headers[":status"], found.headers["content-type"]) == (body, "500", JSON)


@pytest.mark.parametrize("call", ["GET /v2/models/m", "POST /v2/models/m/infer", "HEAD /files/x"])
def test_methods_stay_as_they_are(call: str) -> None:
    method, path = call.split()
    found = answered(200, "body", method=method, path=path)
    assert (found.method, found.body) == (method, "body")


def test_head_is_a_get_without_a_body() -> None:
    found = answered(200, '{"name":"m"}', method="HEAD", path="/v2/models/m")
    assert (found.method, found.body, found.waited) == ("GET", "", {"chunks"})


def test_head_has_the_length_of_the_error_that_get_has() -> None:
    head = answered(404, error("no"), method="HEAD", path="/v2/models/m")
    get = answered(404, error("no"), method="GET", path="/v2/models/m")
    assert (head.body, head.headers) == ("", get.headers)


@pytest.mark.parametrize("content_type", [GRPC, "application/grpc+proto"])
def test_a_message_over_grpc_names_the_decision(content_type: str) -> None:
    trailers = {"grpc-status": "3", "grpc-message": "wrong shape: 100%25 %C3%A9"}
    found = answered(200, "", {"content-type": content_type}, trailers=trailers)
    assert found.headers["grpc-message"] == f"wrong shape: 100%25 %C3%A9{IN_DECISION}"
    assert found.waited == {"trailers"}


def test_what_grpc_cannot_parse_is_a_mistake_of_the_caller() -> None:
    found = answered(
        200, headers={"content-type": GRPC, "grpc-status": "13", "grpc-message": "Unable to parse request"}
    )
    assert found.headers["grpc-status"] == "3"
    assert found.headers["grpc-message"].startswith("the message cannot be read: it is not what this call takes (")


def test_a_message_in_place_of_an_answer_is_in_the_headers() -> None:
    found = answered(200, "", {"content-type": GRPC, "grpc-status": "12", "grpc-message": ""})
    assert (found.headers["grpc-message"], found.waited) == (IN_DECISION, set())


@pytest.mark.parametrize(
    "trailers",
    [
        None,
        {"grpc-status": "0"},
        {"grpc-status": "0", "grpc-message": "fine"},
        {"grpc-status": "13"},
        {"grpc-status": "7", "grpc-message": f"model_forbidden: no{IN_DECISION}", "cache-control": "no-store"},
    ],
)
def test_other_trailers_stay_as_they_are(trailers: dict[str, str] | None) -> None:
    before = dict(trailers or {})
    found = answered(200, "bytes", {"content-type": GRPC}, trailers=trailers)
    assert found.body == "bytes"
    assert found.headers.items() >= before.items()


@pytest.mark.parametrize("content_type", [None, "text/csv", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_triton_parses_is_called_json(content_type: str | None) -> None:
    for path in ("/v2/models/m/infer", "/v2", "/v2?a=b"):
        assert answered(200, path=path, content_type=content_type).sent["content-type"] == JSON


@pytest.mark.parametrize("path", ["/invocations", "/v1/models/m:predict", "/V2/x", "/a/v2/models/m/infer"])
def test_another_server_gets_the_type_that_the_caller_wrote(path: str) -> None:
    for content_type in ("text/csv", "multipart/form-data; boundary=x", "application/json; charset=utf-8"):
        assert answered(200, path=path, content_type=content_type).sent["content-type"] == content_type
    assert "content-type" not in answered(200, path=path).sent


def test_a_grpc_service_keeps_its_type_whatever_its_package_is_called() -> None:
    assert answered(200, path="/v2.Text/Get", content_type=GRPC).sent["content-type"] == GRPC


@pytest.mark.parametrize("form", ["", "; charset=utf-8", ",text/csv"])
def test_no_server_gets_a_form(form: str) -> None:
    """Triton would parse one on every path."""
    for content_type in (f"application/x-www-form-urlencoded{form}", f"Application/X-WWW-Form-URLEncoded{form}"):
        assert answered(200, path="/files/a", content_type=content_type).sent["content-type"] == JSON


STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
TRACEBACK = "ValueError: boom\n\nAt:\n  /srv/models/m/1/model.py(33): execute\n"


def framed(*messages: ModelStreamInferResponse | bytes) -> bytes:
    contents = [each if isinstance(each, bytes) else each.SerializeToString() for each in messages]
    return b"".join(b"\0" + len(content).to_bytes(4, "big") + content for content in contents)


def streamed(body: bytes, size: int = 1, **more: Any) -> list[ModelStreamInferResponse]:  # noqa: ANN401
    """What a caller gets of a stream that comes in parts of this size."""
    headers = {"content-type": GRPC}
    found = answered(200, body.decode("latin-1"), headers, path=STREAM, content_type=GRPC, size=size, **more)
    frames, messages = found.body.encode("latin-1"), []
    while frames:
        end = 5 + int.from_bytes(frames[1:5], "big")
        messages.append(ModelStreamInferResponse.FromString(frames[5:end]))
        frames = frames[end:]
    return messages


def failing(text: str, id: str = "") -> ModelStreamInferResponse:  # noqa: A002  # as the message calls it
    return ModelStreamInferResponse(error_message=text, infer_response=ModelInferResponse(id=id))


def good(size: int = 10) -> ModelStreamInferResponse:
    return ModelStreamInferResponse(
        infer_response=ModelInferResponse(model_name="m", raw_output_contents=[b"\x0a\x03abc" * size])
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["good", "empty", *SCRUBBED, "x" * 300]), max_size=6),
    st.integers(1, 400),
)
def test_each_message_of_a_stream_has_a_harmless_sentence_however_it_is_cut(texts: list[str], size: int) -> None:
    sent = [good() if text == "good" else b"" if text == "empty" else failing(text, "an id") for text in texts]
    kept = [good() if text == "good" else failing(SCRUBBED.get(text, text), "an id") for text in texts]
    wanted = [ModelStreamInferResponse() if text == "empty" else one for text, one in zip(texts, kept, strict=True)]
    assert streamed(framed(*sent), size) == wanted


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_long_sentence_of_a_stream_is_said_in_short(size: int) -> None:
    after = [good(), failing("fine")]
    first, *others = streamed(framed(failing("x" * 70_000, "an id"), *after), size)
    assert first.error_message.startswith("the model server says more than 64 KiB")
    assert (first.infer_response.id, others) == ("an id", after)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_good_messages_of_a_stream_are_not_touched(size: int) -> None:
    sent = framed(good(0), good(1), good(5000), b"", b"\x0a\x7fshort", b"\x0a\xff\xff\xff\xff\xff\xff", b"\x0a")
    found = answered(200, sent.decode("latin-1"), {"content-type": GRPC}, path=STREAM, content_type=GRPC, size=size)
    assert found.body.encode("latin-1") == sent


def test_a_stream_says_what_the_proxy_did_not_pass_on() -> None:
    said = "Request for unknown model: 'the message is larger than 67108864 bytes' is not found"
    (found,) = streamed(framed(failing(said)))
    assert found.error_message == "the message is larger than 67108864 bytes"
    (found,) = streamed(framed(failing("Stub process 'm_0_0' is not healthy.")))
    assert found.error_message == "the process of the model has ended and is started again: try again"


EVENTS = {"content-type": "text/event-stream; charset=utf-8", "content-length": ""}
GENERATE = "/v2/models/m/generate_stream"


def event(text: str) -> str:
    return f"data: {error(text)}\n\n"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["good", *SCRUBBED]), max_size=6), st.integers(1, 300))
def test_each_event_has_a_harmless_sentence_however_it_is_cut(texts: list[str], size: int) -> None:
    good = 'data: {"text":"/srv/models/m/error"}\n\n'
    sent = "".join(good if text == "good" else event(text) for text in texts)
    found = answered(200, sent, EVENTS, path=GENERATE, size=size).body.encode("latin-1").split(b"\n\n")
    kept = [json.loads(good[5:]) if text == "good" else {"error": SCRUBBED[text]} for text in texts]
    assert [json.loads(each[5:]) for each in found[:-1]] == kept
    assert found[-1] == b""


@pytest.mark.parametrize("size", [1000, 100_000])
def test_long_events_of_a_stream(size: int) -> None:
    good, after = f'data: {{"text":"{"x" * 100_000}"}}\n\n', event("fine")
    found = answered(200, event("x" * 100_000) + after + good + after, EVENTS, path=GENERATE, size=size).body
    first, *others = found.split("\n\n")
    if size < 70_000:
        assert "more than 64 KiB" in first
    assert others == [after.strip(), good.strip(), after.strip(), ""]


def test_an_event_that_is_the_answer_is_a_problem() -> None:
    found = answered(400, event(TRACEBACK), EVENTS, path=GENERATE)
    assert (found.headers["content-type"], found.problem["detail"]) == ("application/problem+json", "ValueError: boom")


@pytest.mark.parametrize("broken", ["answer", "is_long", "said", "harmless", "decision", "unescaped"])
def test_an_answer_that_cannot_be_read_shows_nothing(broken: str) -> None:
    """Envoy would pass it as it is."""
    found = answered(500, error(TRACEBACK), broken=broken)
    assert "srv" not in found.body + str(found.headers)
    assert (found.headers[":status"], found.problem["code"]) == ("502", "proxy_failed")
    trailers = {"grpc-status": "13", "grpc-message": quote(TRACEBACK)}
    if broken in ("answer", "said", "harmless", "decision"):
        found = answered(200, "", {"content-type": GRPC}, trailers=trailers, broken=broken)
        assert (
            found.headers["grpc-message"] == "proxy_failed: the answer of the model server could not be read, try again"
        )


@pytest.mark.parametrize("broken", ["passed_on", "framed", "said", "frame_at"])
def test_of_a_stream_that_cannot_be_read_nothing_passes(broken: str) -> None:
    assert streamed(framed(failing(TRACEBACK), failing(TRACEBACK)), 1000, broken=broken) == []
