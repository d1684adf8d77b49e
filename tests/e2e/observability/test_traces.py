"""A caller's trace goes on in `tollgate serve` behind a real Envoy, and a collector that is away costs nothing."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import httpx

from tests.e2e.observability.collector import collecting
from tests.e2e.reload.world import serving, token
from tests.e2e.server.front import front_envoy
from tests.requests import check_request
from tests.services import free_port, wait_for

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PHASES = {f"tollgate.{phase}" for phase in ("read", "route", "identity", "permission", "settlement", "response")}


def traceparent(flags: str = "01", trace: str = TRACE) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{SPAN}-{flags}"}


def infer(front: int, headers: dict[str, str]) -> int:
    headers = {"authorization": f"Bearer {token()}", "content-type": "application/json", **headers}
    return httpx.post(f"http://127.0.0.1:{front}/v2/models/sentiment/infer", headers=headers, json={}).status_code


def test_a_sampled_call_is_continued_and_others_are_not(tmp_path: Path, stores: tuple[str, str]) -> None:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with collecting(port) as collector:
        with (
            serving(tmp_path, *stores, otlp_endpoint=endpoint, log_decisions=True) as server,
            front_envoy(tmp_path, [server.port]) as front,
        ):
            assert infer(front, traceparent("00", "a" * 32)) == 200
            assert infer(front, {"traceparent": "no trace"}) == 200
            assert infer(front, {}) == 200
            assert infer(front, traceparent()) == 200
            line = next(line for line in server.log if line.get("trace_id"))
        # `serve` has stopped: what was queued is here.
        [check] = collector.named("tollgate.check")
    assert (check.trace_id.hex(), check.parent_span_id.hex(), check.kind) == (TRACE, SPAN, check.SPAN_KIND_SERVER)
    attributes = {each.key: each.value.string_value for each in check.attributes}
    assert attributes["tollgate.reason"] == "allowed"
    assert (line["trace_id"], line["decision_id"]) == (TRACE, attributes["tollgate.decision_id"])
    phases = {span.name: span for span in collector.spans if span.parent_span_id == check.span_id}
    assert set(phases) == PHASES
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert all(check.start_time_unix_nano <= span.start_time_unix_nano for span in phases.values())


def test_a_collector_that_never_answers_delays_no_check_and_no_stop(tmp_path: Path, stores: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(tmp_path, *stores, otlp_endpoint=endpoint, redis_timeout=0.5) as server:
            message = check_request(token=token(), headers=tuple(traceparent().items()))
            times = []
            for _ in range(3000):
                begin = time.perf_counter()
                assert server.ask(message)
                times.append(time.perf_counter() - begin)
            wait_for(lambda: server.metric('tollgate_checks_total{reason="allowed",route="infer"}') == 3000)
            server.process.terminate()
            begin = time.perf_counter()
            assert server.process.wait(30) == 0
            stopped = time.perf_counter() - begin
    assert sorted(times)[len(times) // 2] < 0.01
    assert stopped < 5
