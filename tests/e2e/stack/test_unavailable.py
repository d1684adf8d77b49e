"""What callers get of a model, or of a Triton, that is away: more lines of docs/bad-input.md."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ctypes import CDLL, get_errno
from threading import Event

import httpx
import psutil
import pytest

from devstack.demo.participants import EXAMPLES
from devstack.stack.stack import Stack
from ext_authz.render.endpoints import Pipe
from tests.docs.bad_input import ROWS
from tests.e2e.stack.bad_caller import PATIENCE, BadCaller, ensure_in_ledger, found_in
from tests.e2e.stack.bad_requests import Call, body, message, rest
from tests.services import over, wait_for

# Alone: a call must be with the model, which nothing tells, before the model is unloaded.
pytestmark = pytest.mark.alone

UNLOADED, UNLOADING = "a call of a model that was unloaded", "a call of a model that is being unloaded"
DEAD, AWAY = "a call of a model whose process has ended", "a call while Triton is restarted"
OF_THE_SERVER = {(what, protocol) for what in (UNLOADED, UNLOADING, DEAD, AWAY) for protocol in ("REST", "gRPC")}
PIXELS = EXAMPLES["digits"]["pixels"]
DIGITS = rest(body(name="pixels", shape=[1, 64], data=PIXELS))._replace(path="/v2/models/digits/infer")
DIGITS_MESSAGE = Call(
    message(
        lambda made: made.inputs[0].contents.fp32_contents.extend(PIXELS),
        model="digits", tensor=None, name="pixels", shape=[1, 64],
    )
)  # fmt: skip


@pytest.fixture
def caller(stack: Stack) -> Iterator[BadCaller]:
    with BadCaller(stack) as someone:
        yield someone


def ensure_answered(stack: Stack, caller: BadCaller, what: str) -> None:
    """Over both protocols as the lines say, also in the ledger."""
    found = {(what, "REST"): caller.rest(DIGITS), (what, "gRPC"): caller.grpc(DIGITS_MESSAGE)}
    assert {key: (one.answer, one.sentence) for key, one in found.items()} == {
        key: (ROWS[key].answer, ROWS[key].sentence) for key in found
    }
    ensure_in_ledger(stack, {key: one.decision for key, one in found.items()})


def test_a_model_that_is_unloaded_is_named_in_words(stack: Stack, caller: BadCaller) -> None:
    """A call that is with the model is answered all the same."""
    secret = {"x-triton-admin": stack.state.secret("triton", "admin-secret")}
    with over(_triton(stack).path) as operator, ThreadPoolExecutor(1) as threads, BadCaller(stack) as other:
        operator.headers.update(secret)
        try:
            with held(*family(stack, "/served/digits/1/model.py")), verbose(stack, operator) as said:
                in_flight = threads.submit(other.rest, DIGITS)
                wait_for(lambda: "model digits, instance digits" in said())
                operator.post("/v2/repository/models/digits/unload").raise_for_status()
                ensure_answered(stack, caller, UNLOADING)
            assert in_flight.result().answer == "200"
            wait_for(lambda: operator.get("/v2/health/ready").status_code == httpx.codes.OK)
            ensure_answered(stack, caller, UNLOADED)
        finally:
            operator.post("/v2/repository/models/digits/load").raise_for_status()
    assert caller.rest(DIGITS).answer == "200"


@contextmanager
def held(stub: psutil.Process) -> Iterator[None]:
    """Its first thread, in which models compute, does not run. The others do: one tells Triton that the process lives,
    which gives it up after a second without that. Source: ptrace(2)."""
    seize, interrupt, detach, every_kind = 0x4206, 0x4207, 17, 0x40000000
    libc = CDLL(None, use_errno=True)
    if libc.ptrace(seize, stub.pid, None, None) != 0:
        pytest.skip(f"a thread cannot be held here: ptrace: {os.strerror(get_errno())}")
    assert libc.ptrace(interrupt, stub.pid, None, None) == 0
    os.waitpid(stub.pid, every_kind)
    try:
        yield
    finally:
        libc.ptrace(detach, stub.pid, None, None)


@contextmanager
def verbose(stack: Stack, operator: httpx.Client) -> Iterator[Callable[[], str]]:
    """What Triton writes into its log meanwhile: also each call that it hands to a model, which nothing else tells."""
    log = stack.child("triton").log
    before = log.stat().st_size
    operator.post("/v2/logging", json={"log_verbose_level": 1}).raise_for_status()
    try:
        yield lambda: log.read_bytes()[before:].decode(errors="replace")
    finally:
        operator.post("/v2/logging", json={"log_verbose_level": 0}).raise_for_status()


def test_a_model_whose_process_has_ended_is_unavailable(stack: Stack, caller: BadCaller) -> None:
    """Until the watchdog sees it, which here it cannot."""
    with suspended(*family(stack, "serve.py")):
        for stub in family(stack, "/served/digits/1/model.py"):
            stub.kill()
        ensure_answered(stack, caller, DEAD)
    wait_for(lambda: _is_loaded(stack), 60)  # not by calls: the limit of the path would end them
    assert caller.rest(DIGITS).answer == "200"


def _is_loaded(stack: Stack) -> bool:
    with over(_triton(stack).path) as operator:
        ready = operator.get("/v2/models/digits/ready").status_code == httpx.codes.OK
    return ready and any(_family(stack, "/served/digits/1/model.py"))


def _triton(stack: Stack) -> Pipe:
    assert isinstance(stack.addresses.triton.http, Pipe)
    return stack.addresses.triton.http


def family(stack: Stack, word: str) -> list[psutil.Process]:
    """Processes that Triton started, by their arguments."""
    found = _family(stack, word)
    assert found
    return found


def _family(stack: Stack, word: str) -> list[psutil.Process]:
    triton = psutil.Process(stack.child("triton").pid)
    return [each for each in triton.children(recursive=True) if word in _arguments(each)]


def _arguments(process: psutil.Process) -> str:
    """Of a process that has ended: none."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@contextmanager
def suspended(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_nobody_hangs_while_triton_is_restarted_and_then_all_are_served(stack: Stack, caller: BadCaller) -> None:
    over_now = Event()
    with ThreadPoolExecutor(2) as threads:
        loads = [threads.submit(_load, stack, over_now) for _ in range(2)]
        stack.child("triton").kill()
        ensure_answered(stack, caller, AWAY)
        stack.child("triton").start()
        assert [caller.good().status_code for _ in range(20)] == [200] * 20
        over_now.set()
        answers = {answer for load in loads for answer in load.result()}
    expected = ROWS[AWAY, "REST"]
    assert answers == {"200", f"{expected.answer} {expected.sentence} 1"}


def _load(stack: Stack, over_now: Event) -> list[str]:
    """Calls one after the other: how they are answered. Metadata of a model, which costs no quota."""
    found = []
    with BadCaller(stack) as caller:
        while not over_now.is_set():
            began = time.monotonic()
            answer = caller.good()
            assert time.monotonic() - began < PATIENCE
            said = found_in(answer)
            found.append(" ".join(filter(None, (said.answer, said.sentence, answer.headers.get("retry-after")))))
            over_now.wait(0.02)
    return found
