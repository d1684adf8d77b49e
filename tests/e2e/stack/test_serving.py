"""What callers notice of a model server that is attacked, loses the process of a model, or is stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from devstack.stack.probe import answers
from devstack.stack.stack import Stack
from tests.e2e.stack.conftest import served, token_of
from tests.services import over, wait_for

pytestmark = pytest.mark.alone

TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}
DIGIT = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}]}
KILLERS = {
    "form": ("application/x-www-form-urlencoded", b"%" * 7_000_000),
    "deep": ("application/json", b"[" * 150_000),
    "chunks": ("application/json", b"1\r\nx\r\n" * 600_000 + b"0\r\n\r\n"),
}
"""Each ends a Triton on the usual stack: tests/e2e/models/test_serving.py."""


@pytest.fixture
def caller(stack: Stack) -> Iterator[httpx.Client]:
    bearer = {"authorization": f"Bearer {token_of(stack, 'load29')}"}
    with httpx.Client(base_url=stack.addresses.envoy, headers=bearer, timeout=60) as client:
        yield client


@pytest.mark.parametrize("name", KILLERS)
def test_what_ends_triton_elsewhere_is_a_mistake_of_the_caller(stack: Stack, name: str) -> None:
    pid, (kind, body) = stack.child("triton").pid, KILLERS[name]
    length = "transfer-encoding: chunked" if name == "chunks" else f"content-length: {len(body)}"
    lines = [
        *("POST /v2/models/digits/infer HTTP/1.1", "host: x", f"content-type: {kind}", length),
        *(f"authorization: Bearer {token_of(stack, 'load29')}", "connection: close"),
    ]
    with socket.create_connection(("127.0.0.1", stack.settings.envoy_port), 60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        assert connection.recv(12) == b"HTTP/1.1 400"
    assert (stack.child("triton").is_running, stack.child("triton").pid) == (True, pid)


def test_a_model_whose_process_died_is_not_ready_until_it_is_back(stack: Stack, caller: httpx.Client) -> None:
    """Of a model that no experiment sends to another Triton."""
    child = stack.child("triton")
    (stub,) = [
        each for each in psutil.Process(child.pid).children(recursive=True)
        if "/served/digits/1/model.py" in " ".join(each.cmdline())
    ]  # fmt: skip
    assert caller.get("/v2/models/digits/ready").status_code == 200
    os.kill(stub.pid, signal.SIGKILL)
    # Noticed within half a second; a busy machine takes longer.
    wait_for(lambda: "watchdog: digits is not ready" in child.log.read_text())
    seen = []
    while (status := caller.get("/v2/models/digits/ready").status_code) != 200:
        seen.append(status)
    assert set(seen) <= {400}  # none where Triton answers only once it is loaded
    assert caller.post("/v2/models/digits/infer", json=DIGIT).status_code == 200
    assert answers(child.probe)  # for `tollgate status`
    assert child.is_running


_PLACES = "|".join(re.escape(place.name) for place in Path("/").iterdir())
PLACES = re.compile(rf"(?<![\w.])/(?:{_PLACES})(?![\w.-])|/\S+\.py|Traceback")
"""Paths of this machine, and what a traceback has."""


def test_no_answer_has_a_path_of_the_server(stack: Stack, caller: httpx.Client) -> None:
    assert PLACES.search(f"in {Path(__file__)}")
    models = served(stack)
    named = [
        f"/v2/models/{name}{version}" for name in (*models, "nothing") for version in ("", "/versions/1", "/versions/9")
    ]
    paths = [place + what for place in named for what in ("", "/config", "/stats", "/ready", "/x")]
    for path in (*paths, "/v2", "/v2/models", "/v2/models/stats", "/v2/repository/index", "/v2/trace/setting"):
        answer = caller.get(path)
        assert not PLACES.search(answer.text), f"{path}: {answer.text}"
    wrong = [{}, {"inputs": []}, TEXT | {"outputs": [{"name": "nothing"}]}, b"no json", {"inputs": TEXT["inputs"] * 2}]
    for body in wrong:
        answer = caller.post(
            "/v2/models/digits/infer", **({"content": body} if isinstance(body, bytes) else {"json": body})
        )
        assert answer.status_code in (400, 429, 500)
        assert not PLACES.search(answer.text), answer.text
    bearer = {"authorization": f"Bearer {token_of(stack, 'load29')}"}
    with triton.InferenceServerClient(stack.addresses.envoy_grpc) as client:
        for name in models:
            for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
                assert not PLACES.search(str(call(name, headers=bearer)))
            with pytest.raises(InferenceServerException) as refused:
                client.get_model_config(name, "9", headers=bearer)
            assert not PLACES.search(str(refused.value))


def test_who_has_a_call_in_flight_gets_an_answer_before_envoy_ends(stack: Stack) -> None:
    envoy, server = stack.child("envoy"), psutil.Process(stack.child("triton").pid)
    url = f"{stack.addresses.envoy}/v2/models/digits/infer"
    bearer = {"authorization": f"Bearer {token_of(stack, 'load30')}"}
    with ThreadPoolExecutor(2) as threads, over(stack.addresses.envoy_admin) as admin:
        server.suspend()
        try:
            call = threads.submit(httpx.post, url, json=DIGIT, headers=bearer, timeout=60)
            wait_for(lambda: " 0" not in admin.get("/stats?filter=^cluster.triton_http.upstream_rq_active$").text)
            stop = threads.submit(envoy.stop)
            wait_for(lambda: _refuses(stack.settings.envoy_port))
            assert not call.done()
        finally:
            server.resume()
        assert call.result().status_code == 200
        stop.result()
    envoy.start()
    assert httpx.post(url, json=DIGIT, headers=bearer).status_code == 200


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_whoever_is_asked_stops_before_who_is_asked_by_it(stack: Stack) -> None:
    """Parts stop in the reverse order of their start."""
    names = [child.name for child in stack.children]
    assert names.index("triton") < names.index("authorizer") < names.index("envoy")
