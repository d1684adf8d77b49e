"""What a caller would be told, read from the answer that the door would give to Envoy."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse, HeaderValueOption

GRPC_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""By number."""


class Told(Struct, frozen=True):
    """The answer in the words of HTTP and gRPC."""

    grpc: str
    """Name of the code; OK for what is let through."""
    status: int = 0
    """HTTP; 0 for what is let through: the model answers then."""
    headers: dict[str, str] = {}
    """Lower-case names. Of a refusal those of the answer; of what is let through also those that the model gets."""
    body: str = ""


def told(message: bytes) -> Told:
    """Read one serialised CheckResponse as Envoy does."""
    answer = CheckResponse.FromString(message)
    grpc = GRPC_CODES[answer.status.code]
    if answer.WhichOneof("http_response") == "ok_response":
        ok = answer.ok_response
        return Told(grpc, headers=_headers(ok.response_headers_to_add) | _headers(ok.headers))
    refusal = answer.error_response if answer.HasField("error_response") else answer.denied_response
    return Told(grpc, refusal.status.code, _headers(refusal.headers), refusal.body)


def _headers(options: Iterable[HeaderValueOption]) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}
