"""What became of an allowed call, as Envoy's access log has it: one row of `call_outcomes` per decision.

The id is the one that the authorizer returned with its answer, as metadata: no header of a caller, nor of a model, gets
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import LiteralString
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from msgspec import Struct
from msgspec.structs import astuple

from ext_authz.db.postgres import Connection
from ext_authz.decision import Reason
from ext_authz.gen.tollgate.envoy.accesslog.v3.access_log_pb2 import (
    AccessLogCommon,
    HTTPAccessLogEntry,
    HTTPResponseProperties,
    StreamAccessLogsMessage,
)
from ext_authz.ledger.event import USAGE_UNITS

NEEDS = {"call_outcomes": ("INSERT",)}
"""The privileges of who writes them."""
MAX_UNITS = 10**12 - 1
_AUTHORIZER = "envoy.filters.http.ext_authz"
_MAX_TEXT = 255
_MAX_STATUS = 999
_MAX_ATTEMPTS = 2**15 - 1
_MAX_BYTES = 2**63 - 1
_NO_TIME, _NO_UNITS = -1.0, -1
_NO_GRPC = -1
_GRPC_HTTP_STATUS = 200
_BY_THE_UPSTREAM = "via_upstream"


class Outcome(Struct, frozen=True):
    """As it is written; `event.StoredOutcome` is what is read."""

    decision_id: UUID
    status: int
    """Of HTTP; 0: the caller was gone before there was an answer."""
    grpc_status: int
    flags: str
    details: str
    duration_ms: float
    bytes_in: int
    bytes_out: int
    upstream: str
    upstream_address: str
    attempts: int
    upstream_ms: float
    """Below 0: no upstream was sent anything."""
    units: int
    """Below 0: the model does not say."""


_INSERT: LiteralString = f"""
INSERT INTO call_outcomes ({", ".join(Outcome.__struct_fields__)})
SELECT decision_id, status, nullif(grpc_status, {_NO_GRPC}), flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, attempts, nullif(upstream_ms, {_NO_TIME}), nullif(units, {_NO_UNITS})
FROM unnest(%b::uuid[], %b::smallint[], %b::smallint[], %b::text[], %b::text[], %b::float8[], %b::bigint[],
    %b::bigint[], %b::text[], %b::text[], %b::smallint[], %b::float8[], %b::bigint[]
) AS incoming ({", ".join(Outcome.__struct_fields__)})
ON CONFLICT DO NOTHING
"""  # noqa: S608 - constants


async def insert(connection: Connection, outcomes: Sequence[Outcome]) -> int:
    """How many were new: the first one of a decision is kept."""
    # The same order in every worker, against deadlocks.
    rows = [astuple(outcome) for outcome in sorted(outcomes, key=attrgetter("decision_id.int"))]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Outcome.__struct_fields__]
    return (await connection.execute(_INSERT, columns)).rowcount


def outcomes_of(message: bytes) -> Iterator[Outcome | None]:
    """Of each entry of a `StreamAccessLogsMessage` about a call that ended; None: it cannot be read, or its call was
    not allowed by an authorizer."""
    try:
        entries = StreamAccessLogsMessage.FromString(message).http_logs.log_entry
    except DecodeError:
        yield None
        return
    for entry in entries:
        if not entry.common_properties.intermediate_log_entry:
            yield _outcome(entry)


def _outcome(entry: HTTPAccessLogEntry) -> Outcome | None:
    common, response = entry.common_properties, entry.response
    decision_id, status = _decision_id(common), response.response_code.value
    if decision_id is None or status > _MAX_STATUS:
        return None
    address, upstream_ms = common.upstream_remote_address.socket_address, _upstream_ms(common)
    return Outcome(
        decision_id,
        status,
        _grpc_status(response),
        _text(" ".join(flag.name for flag, is_set in common.response_flags.ListFields() if is_set)),
        _text(response.response_code_details),
        max(0.0, _milliseconds(common.duration)),
        min(entry.request.request_body_bytes, _MAX_BYTES),
        min(response.response_body_bytes, _MAX_BYTES),
        _text(common.upstream_cluster),
        _text(f"{address.address}:{address.port_value}" if address.address else ""),
        min(common.upstream_request_attempt_count, _MAX_ATTEMPTS),
        upstream_ms,
        _units(response) if upstream_ms >= 0 else _NO_UNITS,
    )


def _decision_id(common: AccessLogCommon) -> UUID | None:
    """None unless an authorizer let the call through: what it answers itself has the code "answered"."""
    said = common.metadata.filter_metadata[_AUTHORIZER].fields
    if said["code"].string_value != Reason.ALLOWED:
        return None
    try:
        return UUID(said["decision_id"].string_value)
    except ValueError:
        return None


def _grpc_status(response: HTTPResponseProperties) -> int:
    """In the trailers, or in the headers where there is no message. Answers of gRPC have the status 200: of others, a
    header of this name is the model's own."""
    if response.response_code.value != _GRPC_HTTP_STATUS:
        return _NO_GRPC
    text = response.response_trailers.get("grpc-status") or response.response_headers.get("grpc-status") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len("16") else _NO_GRPC


def _units(response: HTTPResponseProperties) -> int:
    """In the trailers, which come when the work is done, or in the headers. Only of an answer that a model gave, and a
    whole number within bounds: anything else says nothing."""
    if response.response_code_details != _BY_THE_UPSTREAM:
        return _NO_UNITS
    text = response.response_trailers.get(USAGE_UNITS) or response.response_headers.get(USAGE_UNITS) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_UNITS)) else _NO_UNITS


def _upstream_ms(common: AccessLogCommon) -> float:
    """Until the end of the call, where no byte came from it."""
    if not common.HasField("time_to_first_upstream_tx_byte"):
        return _NO_TIME
    answered = common.HasField("time_to_last_upstream_rx_byte")
    until = common.time_to_last_upstream_rx_byte if answered else common.duration
    return max(0.0, _milliseconds(until) - _milliseconds(common.time_to_first_upstream_tx_byte))


def _milliseconds(duration: Duration) -> float:
    return duration.seconds * 1000 + duration.nanos / 1_000_000


def _text(text: str) -> str:
    return text[:_MAX_TEXT].replace("\0", "")
