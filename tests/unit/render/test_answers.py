"""`answers.lua` in the engine that Envoy runs it in: what callers get of Triton's answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import pytest
from lupa.luajit21 import LuaRuntime

from ext_authz.render.filters import answers
from tests.unit.render.policies import demo

DECISION_ID = "01a1f90a-d880-7b90-ac41-dd5d1119f28a"
IN_DECISION = f" (decision {DECISION_ID})"
JSON, GRPC = "application/json", "application/grpc"

# Of Envoy's Lua API what the script uses, no more forgiving than Envoy: headers are out of scope once a body was waited
# for, and what was buffered has no chunks.
_ENVOY = """
local function map(values, scope)
  local made = scope.turn
  local one = {}
  function one:get(name) assert(made == scope.turn, "out of scope") return values[name] end
  function one:replace(name, value) assert(made == scope.turn, "out of scope") values[name] = value end
  return one
end

function answered(method, path, content_type, decision_id, headers, content, trailers)
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
      at = at + 1
      if at > #whole then content = sent return nil end
      local chunk = {}
      sent = sent .. whole:sub(at, at)
      function chunk:setBytes(bytes) sent = sent:sub(1, -2) .. bytes end
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
        problem: dict[str, Any] = json.loads(self.body)
        return problem


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
) -> Answered:
    """What becomes of an answer with this status, body and headers."""
    lua = LuaRuntime(encoding="latin-1", register_eval=False)
    lua.execute(answers(demo())["typed_config"]["default_source_code"]["inline_string"])
    lua.execute(_ENVOY)
    given = {":status": str(status), "content-type": JSON, "content-length": str(len(body))}
    in_lua = lua.table_from(given | dict(headers))
    rest = lua.table_from(trailers) if trailers is not None else None
    sent, got, content, waited = lua.globals()["answered"](method, path, content_type, decision_id, in_lua, body, rest)
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
        (500, error("long"), {"content-length": "70000"}),
        (500, error("endless"), {"content-length": "?"}),
    ],
)
def test_other_answers_are_not_even_read(status: int, body: str, headers: Mapping[str, str]) -> None:
    found = answered(status, body, headers, path="/v2/models/m")
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


@pytest.mark.parametrize("length", ["70000", "?"])
def test_what_is_too_long_about_an_inference_is_said_in_short(length: str) -> None:
    found = answered(400, error("unexpected " * 7000), {"content-length": length})
    assert found.problem["code"] == "invalid_inference_request"
    assert found.problem["detail"].startswith("the model server says more than 64 KiB")
    assert (found.headers["content-type"], found.headers["content-length"]) == (
        "application/problem+json",
        str(len(found.body)),
    )
    assert found.waited == {"chunks"}


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
        {"grpc-status": "7", "grpc-message": f"model_forbidden: no{IN_DECISION}"},
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
