"""What the watchdog asks Triton, and how it reads what that says; a server of some lines plays it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from types import ModuleType
from typing import Any, ClassVar

import pytest

from tests.http_server import answering
from tests.services import wait_for

INPUTS = [
    {"name": "a", "data_type": "TYPE_FP32", "dims": [3, -1]},
    {"name": "b", "data_type": "TYPE_STRING", "dims": ["2"]},
    {"name": "c", "data_type": "TYPE_BOOL", "dims": [1]},
]


class Handler(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, tuple[int, object]]]
    seen: ClassVar[list[tuple[str, dict[str, str], bytes]]]
    goes_on: ClassVar[Event]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.goes_on.wait(20)
        status, said = self.answers[self.path]
        text = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-length", f"{len(text)}")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST  # noqa: N815 - the names of http.server

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.answers, Handler.seen, Handler.goes_on = {}, [], Event()
    Handler.goes_on.set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running, answering(running):
        yield running
        Handler.goes_on.set()


@pytest.fixture
def api(module: Callable[[str], ModuleType]) -> ModuleType:
    return module("tollgate_models.triton_api")


@pytest.fixture
def triton(api: ModuleType, server: ThreadingHTTPServer) -> Any:  # noqa: ANN401 - its module is loaded by name
    return api.Triton(api.Address("0.0.0.0", server.server_port, {"x-admin": "secret"}))


def test_it_says_what_is_ready_what_it_has_done_and_what_runs_it(triton: Any) -> None:  # noqa: ANN401
    entries = [{"name": "m", "version": "1", "state": "READY"}, {"name": "n", "version": "1", "state": "UNAVAILABLE"}]
    counts = [{"name": "m", "version": "1", "execution_count": 7, "inference_stats": {"fail": {"count": 9}}}]
    Handler.answers = {
        "/v2/repository/index": (200, [*entries, {"name": "o"}]),
        "/v2/models/stats": (200, {"model_stats": counts}),
        "/v2/models/m/versions/1/config": (200, {"backend": "python"}),
    }
    assert triton.ready() == {("m", "1")}
    assert triton.counts() == {("m", "1"): 7}
    assert triton.backend("m", "1") == "python"
    assert {headers["x-admin"] for _, headers, _ in Handler.seen} == {"secret"}


def test_what_it_refuses_is_a_problem_or_a_sentence(triton: Any) -> None:  # noqa: ANN401
    Handler.answers = {
        "/v2/repository/index": (403, ""),
        "/v2/repository/models/m/unload": (400, {"error": "not allowed"}),
    }
    with pytest.raises(HTTPException, match="/v2/repository/index answers 403"):
        triton.ready()
    assert triton.unload("m") == '{"error": "not allowed"}'
    Handler.answers["/v2/repository/models/m/unload"] = (200, "")
    assert triton.unload("m") == ""


def test_a_load_is_not_waited_for(triton: Any) -> None:  # noqa: ANN401
    Handler.answers = {"/v2/repository/models/m/load": (400, {"error": "no file"})}
    Handler.goes_on.clear()
    call = triton.load("m")
    assert triton.outcome(call) is None
    Handler.goes_on.set()
    wait_for(lambda: triton.outcome(call) is not None)
    assert triton.outcome(call) == '{"error": "no file"}'
    assert 0 <= call.seconds < 60


@pytest.mark.parametrize(
    ("status", "said", "of_model"),
    [
        (400, "not authorised", True),
        (200, "", True),
        (503, "", False),
        (500, "Stub process 'm' is not healthy.", False),
    ],
)
def test_a_model_is_asked_by_zeros_of_its_inputs(
    triton: Any,  # noqa: ANN401
    status: int,
    said: str,
    of_model: bool,  # noqa: FBT001
) -> None:
    """Of every type alike: an empty text is its length, 0."""
    Handler.answers = {
        "/v2/models/m/versions/2/config": (200, {"max_batch_size": 8, "input": INPUTS}),
        "/v2/models/m/versions/2/infer": (status, {"error": said}),
    }
    assert triton.ask("m", "2").wait().is_of_model == of_model
    _, headers, body = Handler.seen[-1]
    length = int(headers["inference-header-content-length"])
    assert [(each["name"], each["datatype"], each["shape"]) for each in json.loads(body[:length])["inputs"]] == [
        ("a", "FP32", [1, 3, 1]), ("b", "BYTES", [1, 2]), ("c", "BOOL", [1, 1])
    ]  # fmt: skip
    assert body[length:] == bytes(12 + 8 + 1)
    assert not [name for name in headers if name.startswith("x-authz")]


@pytest.mark.parametrize(
    "given", [{"data_type": "TYPE_UNKNOWN", "dims": [1]}, {"data_type": "TYPE_FP64", "dims": [1 << 22]}]
)
def test_a_model_that_cannot_be_asked_so_is_not(triton: Any, given: dict[str, object]) -> None:  # noqa: ANN401
    Handler.answers = {"/v2/models/m/versions/1/config": (200, {"input": [{"name": "a", **given}]})}
    assert triton.ask("m", "1") is None
    assert len(Handler.seen) == 1
