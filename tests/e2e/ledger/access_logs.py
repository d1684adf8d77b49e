"""Entries of Envoy's access log, sent as Envoy does."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import grpc

from ext_authz.gen.tollgate.envoy.accesslog.v3.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage
from ext_authz.ledger.access_log import STREAM


def entry(decision_id: str, status: int = 200, code: str = "allowed") -> HTTPAccessLogEntry:
    """Of a call that an authorizer allowed, through `triton_http`."""
    one = HTTPAccessLogEntry()
    said = one.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields
    said["decision_id"].string_value, said["code"].string_value = decision_id, code
    one.common_properties.upstream_cluster = "triton_http"
    one.common_properties.upstream_remote_address.socket_address.address = "10.0.0.7"
    one.common_properties.upstream_remote_address.socket_address.port_value = 8000
    one.common_properties.duration.FromMilliseconds(12)
    one.request.request_body_bytes, one.response.response_body_bytes = 120, 300
    one.response.response_code.value = status
    one.response.response_code_details = "via_upstream"
    return one


def ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def message(*entries: HTTPAccessLogEntry) -> bytes:
    return StreamAccessLogsMessage(
        http_logs=StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)
    ).SerializeToString()


async def send(address: str, messages: Sequence[bytes], credentials: grpc.ChannelCredentials | None = None) -> None:
    """On one stream, which ends when all of it was taken."""
    plain, secure = grpc.aio.insecure_channel, grpc.aio.secure_channel
    async with secure(address, credentials) if credentials else plain(address) as channel:
        stream: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(STREAM)
        await stream(iter(messages))
