"""How long a refusal takes for a model that the caller may not see, and for one that does not exist: whether the time
tells them apart. `python -m tests.benchmarks.visible`

In one process, without a network: it shows more than a caller can measure. Microseconds of the whole check, of the
same caller, in turns. "First" is the first refusal of a name, "again" are later ones; "in use" is the first refusal of
a model that somebody else has called in this worker, so that the match of its path is cached.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ext_authz.decision import Request
from ext_authz.policy.model import Policy
from ext_authz.policytool.simulator import Simulator
from tests.unit.check.test_api_tokens import owner
from tests.unit.policy.writing import loaded
from tests.unit.policytool.test_api_tokens import Given

DOCTOR, NOBODY = owner("doctor"), owner("infer")
NAMES = 4000
AGAIN = 10

POLICY = """
version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway]}
models:
MODELS
routes:
  - {name: infer, operation: infer}
"""
_MODEL = """  {name}:
    call: {{any: [{{role: doctor}}, {{group: /research}}]}}
    versions: {{"2": {{call: {{role: tester}}}}}}
"""


def main() -> None:
    """A row for each protocol."""
    with tempfile.TemporaryDirectory() as directory:
        models = "".join(_MODEL.format(name=_name("there", number)) for number in range(NAMES))
        policy = loaded(Path(directory), POLICY.replace("MODELS\n", models))
    sys.stdout.write("protocol | time | forbidden p50 us | unknown p50 us | difference of means us (99 %)\n")
    sys.stdout.write("---|---|---|---|---\n")
    for protocol in ("REST", "gRPC"):
        for in_use in (False, True):
            for when, taken in asyncio.run(_measure(policy, protocol, in_use=in_use)).items():
                sys.stdout.write(f"{protocol} | {when} | {_row(*taken)}\n")


async def _measure(policy: Policy, protocol: str, *, in_use: bool) -> dict[str, tuple[list[float], list[float]]]:
    caller = Given(DOCTOR)
    simulator = Simulator(policy, time.time(), caller)
    moments = ["in use"] if in_use else ["first", *["again"] * AGAIN]
    taken: dict[str, tuple[list[float], list[float]]] = {moment: ([], []) for moment in moments}
    gc.disable()
    for number in range(NAMES):
        caller.identity = DOCTOR
        if in_use:
            await simulator.decide(_request(protocol, _name("there", number)))
        caller.identity = NOBODY
        kinds = ("there", "gone") if number % 2 else ("gone", "there")
        for moment in moments:
            for kind in kinds:
                taken[moment][kind == "gone"].append(await _timed(simulator, _request(protocol, _name(kind, number))))
        simulator.counters.ledger.clear()
    gc.enable()
    return taken


async def _timed(simulator: Simulator, request: Request) -> float:
    """Microseconds."""
    began = time.perf_counter_ns()
    decision = await simulator.decide(request)
    simulator._responder.build(decision, request.is_grpc)
    return (time.perf_counter_ns() - began) / 1000


def _name(kind: str, number: int) -> str:
    return f"{kind:<5}{number:05}".replace(" ", "-")


def _request(protocol: str, model: str) -> Request:
    if protocol == "REST":
        return Request("POST", "h", f"/v2/models/{model}/versions/1/infer", authorization=("Bearer t",))
    path = "/inference.GRPCInferenceService/ModelInfer"
    content_type, models, versions = "application/grpc", (model,), ("1",)
    return Request(
        "POST", "h", path, authorization=("Bearer t",), content_type=content_type, models=models, versions=versions
    )


def _row(forbidden: list[float], unknown: list[float]) -> str:
    one, other = ([*_without_outliers(each)] for each in (forbidden, unknown))
    difference = statistics.fmean(one) - statistics.fmean(other)
    error = 2.58 * (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5
    middle = " | ".join(f"{statistics.median(each):.1f}" for each in (one, other))
    return f"{middle} | {difference:+.2f} +- {error:.2f}"


def _without_outliers(taken: list[float]) -> Iterator[float]:
    """Without the slowest hundredth, which is the machine's."""
    longest = sorted(taken)[int(len(taken) * 0.99)]
    return (each for each in taken if each <= longest)


if __name__ == "__main__":
    main()
