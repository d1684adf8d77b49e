"""A real Triton by itself: what it survives, what it keeps to operators, and what is left of it when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from devstack.stack.child import is_alive
from devstack.stack.probe import answers
from tests.services import wait_for
from tests.triton import OBEDIENT, OwnTriton, own_triton

pytestmark = pytest.mark.alone

INFER = "POST /v2/models/sentiment/infer HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\n{}\r\n\r\n"
KILLERS = {
    "form": INFER.format("application/x-www-form-urlencoded", "content-length: 7000000").encode() + b"%" * 7_000_000,
    "deep": INFER.format("application/json", "content-length: 150000").encode() + b"[" * 150_000,
    "chunks": INFER.format("application/json", "transfer-encoding: chunked").encode()
    + b"1\r\nx\r\n" * 600_000
    + b"0\r\n\r\n",
}
"""Each ends its HTTP front end on 8 MB of stack."""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnTriton]:
    with own_triton(tmp_path_factory.mktemp("triton")) as running:
        yield running


def send(path: Path, request: bytes) -> bytes:
    """The beginning of the answer; empty if there was none."""
    with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
        caller.settimeout(60)
        caller.connect(str(path))
        caller.sendall(request)
        return caller.recv(12)
    return b""


@pytest.mark.parametrize("name", KILLERS)
def test_what_ends_triton_on_the_usual_stack_is_answered(triton: OwnTriton, name: str) -> None:
    pid = triton.child.pid
    assert re.match(rb"HTTP/1.1 [45]\d\d", send(triton.socket, KILLERS[name]))
    with triton.client() as client:
        assert triton.infer(client, "good").status_code == 200
    assert (triton.child.is_running, triton.child.pid) == (True, pid)


def test_without_that_stack_each_of_them_ends_it(triton: OwnTriton, tmp_path: Path) -> None:
    """So that the test above can fail: the same program and options, on sockets of its own."""
    command = [str(word) for word in triton.child.command]
    program = command[command.index(next(word for word in command if word.endswith("/tritonserver"))) :]
    home = f"{triton.state.plain_part('triton')}/"
    options = [word.replace(home, f"{tmp_path}/") if word.startswith("unix:") else word for word in program]
    options = [word.replace(f"unix:{home}", f"unix:{tmp_path}/") for word in options]
    options[options.index("--load-model") + 1] = "sentiment"
    ended = {}
    for name, request in KILLERS.items():
        for left in tmp_path.glob("*"):
            left.unlink()
        with subprocess.Popen(["/bin/sh", "-c", 'ulimit -s 8192; exec "$@"', "x", *options], stderr=-3) as process:
            wait_for(
                lambda: send(tmp_path / "http", b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")[9:12] == b"200"
            )
            send(tmp_path / "http", request)
            ended[name] = process.wait(30)
    assert ended == dict.fromkeys(KILLERS, -signal.SIGSEGV)


def test_its_stack_is_raised(triton: OwnTriton) -> None:
    limits = Path(f"/proc/{triton.child.pid}/limits").read_text()
    assert re.search(rf"Max stack size +{256 << 20} ", limits)


@pytest.mark.parametrize(
    "call",
    [
        "POST /v2/repository/index", "POST /v2/repository/models/sentiment/load",
        "POST /v2/repository/models/sentiment/unload", "GET /v2/trace/setting", "POST /v2/trace/setting",
        "GET /v2/models/sentiment/trace/setting", "POST /v2/models/sentiment/trace/setting", "GET /v2/logging",
        "POST /v2/logging", "GET /v2/systemsharedmemory/status", "POST /v2/systemsharedmemory/region/x/register",
        "POST /v2/systemsharedmemory/unregister", "GET /v2/cudasharedmemory/status",
        "POST /v2/cudasharedmemory/region/x/register",
    ],
)  # fmt: skip
def test_what_operators_may_do_takes_the_secret(triton: OwnTriton, call: str) -> None:
    method, path = call.split()
    with triton.client() as client:
        for headers in ({}, {"x-triton-admin": "guess"}, {"x-triton-admin": ""}):
            answer = client.request(method, path, json={}, headers=headers)
            assert (answer.status_code, "x-triton-admin" in answer.text) == (403, True)


def test_over_grpc_it_does_too(triton: OwnTriton) -> None:
    (path,) = triton.socket.parent.glob("grpc*")
    with grpc_client.InferenceServerClient(f"unix:{path}") as client:
        for call in (
            client.get_model_repository_index,
            lambda: client.load_model("sentiment"),
            lambda: client.unload_model("sentiment"),
            client.get_trace_settings,
            client.get_log_settings,
            client.get_system_shared_memory_status,
            lambda: client.register_system_shared_memory("x", "/x", 1),
            client.get_cuda_shared_memory_status,
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
        secret = {f"triton-grpc-protocol-{name}": value for name, value in triton.admin.items()}
        assert client.get_model_repository_index(headers=secret).models


def test_a_model_receives_these_headers_and_no_others(triton: OwnTriton) -> None:
    more = {"authorization": "Bearer secret", "cookie": "a=b", "x-user": "c", "x-user-id-2": "d", "my-x-user-id": "e"}
    with triton.client() as client:
        said = triton.infer(client, "hello", model=OBEDIENT, **more, **{"x-decision-id": "f"}).json()
    parameters = json.loads(said["outputs"][0]["data"][0].partition(" ")[2])
    names = {"x-authz-model", "x-authz-version", "x-user-id", "x-model-variant", "x-decision-id"}
    assert set(parameters) == names


def test_of_a_batch_only_the_request_that_breaks_the_model_fails(triton: OwnTriton) -> None:
    """While it sleeps, the others wait, and come to it together."""
    texts = ["break", *map(str, range(7))]
    with triton.client() as client, ThreadPoolExecutor(9) as callers:
        first = callers.submit(triton.infer, client, "sleep", model=OBEDIENT)
        time.sleep(0.1)  # not a wait for a condition: it decides only whether the batch is one, which is asserted
        answers = list(callers.map(lambda text: triton.infer(client, text, model=OBEDIENT), texts))
        assert first.result().status_code == 200
    assert [answer.status_code for answer in answers] == [500, *[200] * 7]
    assert answers[0].json() == {"error": "the model failed"}
    assert max(int(answer.json()["outputs"][0]["data"][0].split()[0]) for answer in answers[1:]) > 1


def test_a_model_whose_process_died_is_back_by_itself(triton: OwnTriton) -> None:
    """As soon as it can be loaded. The others serve meanwhile, and what it starts anew is closed to other users."""
    pid, (stub,) = triton.child.pid, triton.stubs(OBEDIENT)
    program = triton.state.plain_part("triton") / "served" / OBEDIENT / "1" / "model.py"
    works = program.read_text()
    program.write_text("raise RuntimeError")  # without this file Triton would wait for ever
    stub.send_signal(signal.SIGKILL)
    with triton.client() as client:
        wait_for(lambda: f"watchdog: {OBEDIENT} cannot be loaded" in triton.child.log.read_text(), 60)
        assert client.get(f"/v2/models/{OBEDIENT}/ready").status_code == 400
        assert not answers(triton.child.probe)  # for `tollgate status`
        assert triton.infer(client, "hello", model=OBEDIENT).status_code == 404
        assert triton.infer(client, "good").status_code == 200
        program.write_text(works)
        wait_for(lambda: f"watchdog: {OBEDIENT} is ready again" in triton.child.log.read_text(), 60)
        assert client.get(f"/v2/models/{OBEDIENT}/ready").status_code == 200
        assert triton.infer(client, "hello", model=OBEDIENT).status_code == 200
    assert answers(triton.child.probe)
    assert triton.child.pid == pid
    assert [region.stat().st_mode & 0o777 for region in triton.state.shared_memory()] == [0o600] * len(triton.stubs())


def test_a_model_that_hangs_is_loaded_again(triton: OwnTriton) -> None:
    """In a call, stopped, and then while it is loaded. Those who called it get an error, and the others are served."""
    pid, (hung,), (stopped,) = triton.child.pid, triton.stubs(OBEDIENT), triton.stubs("digits/")
    program = triton.state.plain_part("triton") / "served" / OBEDIENT / "1" / "model.py"
    works = program.read_text()
    stopped.suspend()
    with triton.client() as client, ThreadPoolExecutor(1) as threads:
        call = threads.submit(triton.infer, client, "hang", model=OBEDIENT)
        wait_for(lambda: hung.cpu_times().user > 1)
        program.write_text("while True: pass")
        said = call.result()
        assert (said.status_code, "not healthy" in said.text) == (500, True)
        wait_for(lambda: f"of {OBEDIENT} 1, which 4 s were not enough for to load" in triton.child.log.read_text(), 60)
        assert triton.infer(client, "good").status_code == 200
        program.write_text(works)
        for name in (OBEDIENT, "digits"):
            wait_for(lambda name=name: f"watchdog: {name} is ready again" in said_since(triton, "not answered"), 60)
            assert client.get(f"/v2/models/{name}/ready").status_code == 200
        assert triton.infer(client, "hello", model=OBEDIENT).status_code == 200
    assert not is_alive(stopped)
    assert answers(triton.child.probe)
    assert triton.child.pid == pid


def said_since(triton: OwnTriton, words: str) -> str:
    return triton.child.log.read_text().partition(words)[2]


def test_a_crash_leaves_nothing_behind(triton: OwnTriton) -> None:
    """The watchdog outlives Triton for that."""
    stubs = triton.stubs()
    assert stubs
    assert triton.state.shared_memory()
    os.kill(triton.child.pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, stubs)) and not triton.state.shared_memory())
    assert not triton.child.is_running
    triton.child.start()


def test_what_a_crash_of_everything_left_is_removed_at_the_next_start(triton: OwnTriton) -> None:
    """Regions of others, and what they run, are not touched."""
    (watchdog,) = [each for each in triton.family() if "serve.py" in " ".join(each.cmdline())]
    stubs, before = triton.stubs(), triton.state.shared_memory()
    foreign = Path(f"/dev/shm/{triton.state.shared_memory_prefix}triton-canary_x")
    foreign.touch()
    watchdog.suspend()  # it would clean up, and without it Triton would end in order
    os.kill(triton.child.pid, signal.SIGKILL)
    watchdog.kill()
    wait_for(lambda: not triton.child.is_running)
    assert all(map(is_alive, stubs))
    assert set(before) <= set(triton.state.shared_memory())
    triton.child.start()
    assert not any(map(is_alive, stubs))
    assert not set(before) & set(triton.state.shared_memory())
    assert foreign.exists()
    foreign.unlink()
    with triton.client() as client:
        assert triton.infer(client, "good").status_code == 200


def test_without_its_watchdog_it_stops_in_order(triton: OwnTriton) -> None:
    """As by SIGTERM from anybody. Processes of models end in order, also one that holds metrics of Triton."""
    (ended := triton.predictions / f"{OBEDIENT}.ended").unlink(missing_ok=True)
    (watchdog,) = [each for each in triton.family() if "serve.py" in " ".join(each.cmdline())]
    watchdog.kill()
    wait_for(lambda: not triton.child.is_running, 60)
    assert ended.exists()
    assert triton.child.exit_code == 0
    assert not triton.state.shared_memory()
