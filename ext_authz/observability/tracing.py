"""Traces that continue the caller's, sent with OTLP. Only of checks that the caller's `traceparent` marks as sampled.

The libraries come with the extra `tollgate[otlp]`, and are imported only where TOLLGATE_OTLP_ENDPOINT is set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ext_authz.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SAMPLED = 0x01
_LENGTH = 55
"""Of version 00 of `traceparent`: https://www.w3.org/TR/trace-context/#traceparent-header"""
_HEX = frozenset("0123456789abcdef")
_RANDOM_BITS = (1 << 64) - 1
_STOP_SECONDS = 1.0
_MOST_PER_SECOND = 100
"""In one worker. Callers choose what is sampled, and a trace costs several times what its check does."""


class Parent(NamedTuple):
    """The caller's span."""

    trace_id: int
    span_id: int
    state: str
    """`tracestate`, which is passed on to the exporter."""

    @property
    def trace(self) -> str:
        """As in logs."""
        return f"{self.trace_id:032x}"


class Tracer(Protocol):
    """One per worker."""

    def parent(self, headers: Mapping[str, str]) -> Parent | None:
        """None: this check is not traced."""

    def export(self, parent: Parent, marks: Sequence[tuple[str, float]], attributes: Mapping[str, str]) -> None:
        """`marks`: each phase and when it began, by `perf_counter`; the last one is the end."""

    def stop(self) -> None:
        """Send what is queued."""


def tracer(endpoint: str, ratio: float, replica: str) -> Tracer:
    """Raises ConfigError where the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ImportError:
        raise ConfigError(
            "TOLLGATE_OTLP_ENDPOINT: the libraries of OpenTelemetry are not installed: pip install 'tollgate[otlp]'"
        ) from None
    # `parent` decides what is sampled. What has no setting of ours, such as headers and certificates for the
    # collector, the libraries read from variables OTEL_*.
    provider = TracerProvider(
        ALWAYS_ON, Resource({"service.name": "tollgate", "service.instance.id": replica}), shutdown_on_exit=False
    )
    insecure = not endpoint.startswith("https://")
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=insecure, timeout=2)))
    return _OtlpTracer(provider, ratio)


class _OtlpTracer:
    """Spans are made when the check is over: only then does it cost anything, and what fails cannot change a
    decision. A queue that is full drops spans."""

    def __init__(self, provider: TracerProvider, ratio: float) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tollgate")
        self._bound = int(ratio * (_RANDOM_BITS + 1))
        self._second = self._left = 0

    def parent(self, headers: Mapping[str, str]) -> Parent | None:
        given = headers.get("traceparent")
        found = _parse(given, headers.get("tracestate", "")) if given else None
        # By the trace's id, as OpenTelemetry does, so that all services of one ratio choose the same traces.
        return found if found and found.trace_id & _RANDOM_BITS < self._bound and self._fits() else None

    def _fits(self) -> bool:
        """Whether one more is made in this second."""
        if (second := int(time.monotonic())) != self._second:
            self._second, self._left = second, _MOST_PER_SECOND
        self._left -= 1
        return self._left >= 0

    def export(self, parent: Parent, marks: Sequence[tuple[str, float]], attributes: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.trace import (
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            Status,
            StatusCode,
            TraceFlags,
            TraceState,
        )

        offset = time.time_ns() - time.perf_counter_ns()
        times = [(phase, int(at * 1e9) + offset) for phase, at in marks]
        caller = SpanContext(
            parent.trace_id,
            parent.span_id,
            is_remote=True,
            trace_flags=TraceFlags(_SAMPLED),
            trace_state=TraceState.from_header([parent.state]),
        )
        around = trace.set_span_in_context(NonRecordingSpan(caller))
        check = self._tracer.start_span("tollgate.check", around, SpanKind.SERVER, attributes, start_time=times[0][1])
        if attributes.get("tollgate.reason") in ("unavailable", "internal"):
            check.set_status(Status(StatusCode.ERROR))
        inside = trace.set_span_in_context(check)
        for (phase, begin), (_, end) in pairwise(times):
            self._tracer.start_span(f"tollgate.{phase}", inside, start_time=begin).end(end)
        check.end(times[-1][1])

    def stop(self) -> None:
        # The library's own bound is 30 s, and it tries each batch for as long as a collector may take.
        flush = Thread(target=self._provider.shutdown, daemon=True)
        flush.start()
        flush.join(_STOP_SECONDS)


def _parse(text: str, state: str) -> Parent | None:
    """None: malformed, all zero, or not sampled. A later version than 00 may be longer."""
    if len(text) < _LENGTH or (len(text) > _LENGTH and text.startswith("00")):
        return None
    version, trace_id, span_id, flags = text[:2], text[3:35], text[36:52], text[53:55]
    dashes = text[2] + text[35] + text[52] + text[55:56]
    if version == "ff" or dashes.strip("-") or not _HEX.issuperset(version + trace_id + span_id + flags):
        return None
    if not int(flags, 16) & _SAMPLED or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(int(trace_id, 16), int(span_id, 16), state)
