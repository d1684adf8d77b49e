"""Traces: which checks are traced, and what a real receiver of OTLP gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from ext_authz.errors import ConfigError
from ext_authz.observability.tracing import Parent, tracer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
NOWHERE = "http://127.0.0.1:1"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []

    def Export(self, request: ExportTraceServiceRequest, _: object) -> ExportTraceServiceResponse:  # noqa: N802 - as in the API
        self.requests.append(request)
        return ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("ratio", "given", "traced"),
    [
        (1.0, SAMPLED, True),
        (1.0, f"01-{TRACE}-{SPAN}-01-more", True),
        (1.0, f"00-{TRACE}-{SPAN}-03", True),
        (1.0, f"00-{TRACE}-{SPAN}-00", False),
        (1.0, f"00-{TRACE}-{SPAN}-01-more", False),
        (1.0, f"ff-{TRACE}-{SPAN}-01", False),
        (1.0, f"00-{'0' * 32}-{SPAN}-01", False),
        (1.0, f"00-{TRACE}-{'0' * 16}-01", False),
        (1.0, f"00-{TRACE.upper()}-{SPAN}-01", False),
        (1.0, f"00-{TRACE}_{SPAN}-01", False),
        (1.0, "x" * 10_000, False),
        (1.0, "a" * 60, False),
        (1.0, f"000-{TRACE}-{SPAN}-1", False),
        (1.0, f"01-{TRACE}-{SPAN}-01x", False),
        (1.0, "00-" + "\ud800" * 52, False),
        (0.0, SAMPLED, False),
        (0.5, SAMPLED, False),
        (0.5, f"00-{TRACE[:16]}0{TRACE[17:]}-{SPAN}-01", True),
    ],
)
def test_the_caller_s_flag_and_the_ratio_decide(ratio: float, given: str, traced: bool) -> None:  # noqa: FBT001 - a case
    found = tracer(NOWHERE, ratio, "here")
    assert (found.parent({"traceparent": given}) is not None) is traced
    assert found.parent({}) is None
    found.stop()


def test_callers_who_sample_everything_get_a_bounded_number_of_traces() -> None:
    found = tracer(NOWHERE, 1.0, "here")
    traced = sum(found.parent({"traceparent": SAMPLED}) is not None for _ in range(1000))
    assert traced in (100, 200)  # where a second ends meanwhile
    found.stop()


def test_a_receiver_gets_one_span_per_phase_below_the_one_of_the_check() -> None:
    now = perf_counter()
    with receiving() as (receiver, endpoint):
        sending = tracer(endpoint, 1.0, "replica-1")
        parent = sending.parent({"traceparent": SAMPLED, "tracestate": "vendor=1"})
        assert parent is not None
        marks = [("read", now), ("route", now + 0.25), ("", now + 0.5)]
        sending.export(parent, marks, {"tollgate.reason": "unavailable"})
        sending.stop()
    [request] = receiver.requests
    [resource] = request.resource_spans
    named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert named == {"service.name": "tollgate", "service.instance.id": "replica-1"}
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    check = spans.pop("tollgate.check")
    assert (check.trace_id.hex(), check.parent_span_id.hex(), check.trace_state) == (TRACE, SPAN, "vendor=1")
    assert check.end_time_unix_nano - check.start_time_unix_nano == pytest.approx(5e8, rel=1e-3)
    assert check.status.code == 2
    assert {name: span.parent_span_id for name, span in spans.items()} == {
        "tollgate.read": check.span_id,
        "tollgate.route": check.span_id,
    }


def test_a_collector_that_is_away_costs_neither_an_error_nor_a_long_stop() -> None:
    sending = tracer(NOWHERE, 1.0, "here")
    sending.export(Parent(1, 1, ""), [("read", perf_counter()), ("", perf_counter())], {})
    began = perf_counter()
    sending.stop()
    assert perf_counter() - began < 10


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'tollgate\[otlp\]'"):
        tracer(NOWHERE, 1.0, "here")
