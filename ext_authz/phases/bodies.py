"""What is known of a body before it has arrived (docs/adr/0030-bodies-are-not-read.md)."""

from __future__ import annotations

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.policy.kserve import Kind
from ext_authz.policy.model import Match

_WITH_BODY = frozenset({Kind.INFER, Kind.GENERATE, Kind.STREAM})
"""Operations that are nothing without one."""


def ensure_uncompressed(request: Request, match: Match) -> None:
    """Triton unpacks without a limit: 8 MB become 8 GB (docs/adr/0054-what-triton-cannot-take.md). Over gRPC it
    unpacks every message, whatever is called.

    Raises:
        Denied: BAD_REQUEST, `body_compressed`.
    """
    encoding = request.headers.get("grpc-encoding" if match.grpc else "content-encoding", "")
    is_unpacked = match.operation is not None if match.grpc else match.operation in _WITH_BODY
    if is_unpacked and encoding.lower() not in ("", "identity"):
        detail = "compressed bodies and messages are not accepted: send them as they are"
        raise Denied(Reason.BAD_REQUEST, "body_compressed", detail)


def ensure_body(request: Request, match: Match) -> None:
    """Raises Denied (BAD_REQUEST, `body_missing`) for an inference that says it has none."""
    if match.operation in _WITH_BODY and not match.grpc and request.headers.get("content-length") == "0":
        detail = "the body is empty: send the inference request as JSON, or in Triton's binary form"
        raise Denied(Reason.BAD_REQUEST, "body_missing", detail)
