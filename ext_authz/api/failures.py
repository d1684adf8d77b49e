"""What a program reads when something is not done: the only table from causes to HTTP and gRPC statuses here."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import grpc
from msgspec import Struct

from ext_authz.edge.refusals import REFUSALS
from ext_authz.errors import Denied, TollgateError, Unavailable
from ext_authz.tokens.model import NotDone, Why

log = logging.getLogger(__name__)

_STATUSES: Mapping[Why, tuple[int, grpc.StatusCode, str]] = {
    Why.INVALID: (400, grpc.StatusCode.INVALID_ARGUMENT, "Bad request"),
    Why.TOO_WIDE: (403, grpc.StatusCode.PERMISSION_DENIED, "More than the owner may do"),
    Why.FORBIDDEN: (403, grpc.StatusCode.PERMISSION_DENIED, "Not permitted"),
    Why.NOT_FOUND: (404, grpc.StatusCode.NOT_FOUND, "Not found"),
    Why.CONFLICT: (409, grpc.StatusCode.ALREADY_EXISTS, "Conflict"),
    Why.TOO_MANY: (409, grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many"),
}
_CHANGED = 412, grpc.StatusCode.ABORTED, "Changed meanwhile"
"""Of a conflict with the version that the caller has seen (RFC 9110 section 13.1.1)."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
METHOD_NOT_ALLOWED = 405
_RETRY = 1
"""Seconds after which to ask a store again that did not answer."""


class Failure(Struct, frozen=True, kw_only=True):
    """One answer to somebody whose request was not done."""

    http: int
    grpc: grpc.StatusCode
    code: str
    """Machine name of the cause."""
    title: str
    detail: str
    field: str = ""
    challenge: str | None = None
    """`error` of WWW-Authenticate (RFC 6750 section 3); None: no challenge."""
    scope: str = ""
    retry_after: int = 0


def failure_of(error: Exception) -> Failure:
    """Whatever happened. What was not raised on purpose is a bug: logged, and answered without a detail."""
    match error:
        case NotDone():
            stale = error.why is Why.CONFLICT and error.field == "version"
            http, status, title = _CHANGED if stale else _STATUSES[error.why]
            return Failure(
                http=http, grpc=status, code=error.why.value, title=title, detail=error.detail, field=error.field
            )
        case Denied():
            return _of_refusal(error)
        case Unavailable():
            log.warning("console: not done", extra={"dependency": error.dependency, "detail": error.detail})
            return _unavailable(f"{error.dependency} does not answer: nothing is lost, repeat the request")
        case TollgateError():
            return _unavailable(str(error))
    log.error("console: a request failed", exc_info=error)
    detail = "something went wrong here, and it was logged"
    return Failure(http=500, grpc=grpc.StatusCode.INTERNAL, code="internal", title="Internal error", detail=detail)


def unserved(status: int, description: str) -> Failure:
    """A path or method that is not there; `description`: where those are listed that are."""
    detail = f"there is no such path or method: {description} lists them"
    title = "Method not allowed" if status == METHOD_NOT_ALLOWED else "Not found"
    return Failure(http=status, grpc=grpc.StatusCode.UNIMPLEMENTED, code="not_served", title=title, detail=detail)


def unreadable() -> Failure:
    """A body that is no JSON; where it stops to be is not said: parsers count in different ways."""
    return failure_of(NotDone(Why.INVALID, "the body: write one JSON object, in UTF-8, with numbers of a usual size"))


def too_large(detail: str) -> Failure:
    """The body of a request."""
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    return Failure(http=413, grpc=status, code="too_large", title="Too large", detail=detail)


def too_slow(detail: str) -> Failure:
    """The body of a request."""
    status = grpc.StatusCode.DEADLINE_EXCEEDED
    return Failure(http=408, grpc=status, code="too_slow", title="Too slow", detail=detail)


def _of_refusal(denied: Denied) -> Failure:
    row = REFUSALS[denied.reason]
    _, code, detail = row.shown_as or (denied.reason, denied.code, denied.detail)
    return Failure(
        http=row.http,
        grpc=_CODES[row.grpc],
        code=code,
        title=row.title,
        detail=detail,
        challenge=row.challenge,
        scope=denied.scope,
        retry_after=denied.retry_after or row.retry_after,
    )


def _unavailable(detail: str) -> Failure:
    return Failure(
        http=503,
        grpc=grpc.StatusCode.UNAVAILABLE,
        code="unavailable",
        title="Unavailable",
        detail=detail,
        retry_after=_RETRY,
    )
