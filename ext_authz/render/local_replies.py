"""What Envoy answers by itself: a problem document (RFC 9457) or a gRPC status with a message, as refusals are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from ext_authz.policy.model import Policy
from ext_authz.render.console import BODY_BYTES, EVERYWHERE
from ext_authz.render.endpoints import Json, Timeouts, duration
from ext_authz.render.headers import UPSTREAM

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_DECISION = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%"
_IN_DECISION = f" (decision {_DECISION})"
_OTHER = "the proxy refused the request: %RESPONSE_CODE_DETAILS%"


class _Reply(Struct, frozen=True):
    """One row of the table."""

    http: int
    code: str
    title: str
    detail: str
    """For callers over plain HTTP; over gRPC too, if `grpc_detail` is empty."""
    grpc: int
    """`grpc-status`: Envoy's own are UNKNOWN or UNAVAILABLE, which clients try again."""
    grpc_detail: str = ""
    retry_after: int = 0
    checked: bool = True
    """The authorizer allowed it before: the text names the decision."""
    console: bool = False
    """Only on the way to the console."""
    application: bool = False
    """Only on the way to an application."""


def local_replies(policy: Policy, timeouts: Timeouts) -> Json:
    """The first mapper that fits is used: refusals of the authorizer stay as they are."""
    base = policy.responses.problem_base
    replies = [mapper for reply in _replies(policy, timeouts) for mapper in (_to_grpc(reply), _to_http(reply, base))]
    return {"mappers": [{"filter": _BY_THE_AUTHORIZER}, *replies, *_any_other(base)]}


def proxy_too_old(policy: Policy) -> Json:
    """For proxies whose only answer is 503."""
    old = "this gateway has an Envoy older than 1.37 (Istio older than 1.29): upgrade it"
    reply = _Reply(503, "proxy_too_old", "Unavailable", old, 14, checked=False)
    return {"mappers": [_to_grpc(reply), _to_http(reply, policy.responses.problem_base)]}


def token_not_verified(policy: Policy) -> Json:
    """For a proxy that verifies tokens, too."""
    detail = "the token was not verified by the gateway: it is invalid, or its key is too new, try again later"
    # Envoy's status for a wrong audience is 403.
    replies = [_Reply(status, "token_not_verified", "Unauthorized", detail, 16) for status in (401, 403)]
    base = policy.responses.problem_base
    mappers = [mapper for reply in replies for mapper in (_to_grpc(reply), _to_http(reply, base))]
    return _because("jwt_authn", mappers)


def too_many_from_address(policy: Policy) -> Json:
    """For a proxy that limits requests itself."""
    detail = "too many requests from this address, try again"
    reply = _Reply(429, "address_rate_limited", "Limit reached", detail, 8, retry_after=1, checked=False)
    return _because("local_rate_limited", [_to_grpc(reply), _to_http(reply, policy.responses.problem_base)])


def _because(detail: str, mappers: list[Json]) -> Json:
    """Only for what Envoy itself refused, for this reason: the authorizer uses the same statuses."""
    by_envoy = _expression(f"response.code_details.startsWith('{detail}')")
    return {"mappers": [mapper | {"filter": _all(mapper["filter"], by_envoy)} for mapper in mappers]}


def _replies(policy: Policy, timeouts: Timeouts) -> tuple[_Reply, ...]:
    undecided = "the request could not be decided, try again"
    silent = "the model server does not answer, try again"
    late = f"the model server did not answer within {duration(timeouts.request)}: send less at once, or try later"
    large = f"the body is larger than {timeouts.rest_bytes} bytes; larger tensors can be sent over gRPC"
    headers = "the headers are larger than 60 KiB: send fewer, or a token with fewer roles"  # Envoy's default
    message = f"the message is larger than {timeouts.grpc_bytes} bytes"
    slow = f"the request did not arrive within {duration(timeouts.request)}: send less at once, or over a faster line"
    # Above all an error whose text is longer than headers may be, which is where gRPC has it.
    broken = "the answer of the model server cannot be passed on: compare names and shapes with the model's metadata"
    return (
        _Reply(503, "unavailable", "Unavailable", undecided, 14, retry_after=1, checked=False),
        *(_of_console(timeouts) if policy.tokens else ()),
        *_of_applications(policy, timeouts),
        _Reply(503, "model_server_unavailable", "Unavailable", silent, 14, retry_after=1),
        _Reply(502, "model_server_broken", "Bad gateway", broken, 13),
        _Reply(504, "model_server_timeout", "Timeout", late, 4),
        _Reply(408, "request_timeout", "Timeout", slow, 4, checked=False),
        _Reply(413, "too_large", "Too large", large, 8, grpc_detail=message, checked=False),
        _Reply(431, "headers_too_large", "Headers too large", headers, 8, checked=False),
        _Reply(404, "route_unknown", "Not found", "this path is not served here", 12),
    )


def _of_console(timeouts: Timeouts) -> Iterator[_Reply]:
    silent = "the console does not answer, try again"
    yield _Reply(503, "console_unavailable", "Unavailable", silent, 14, retry_after=1, console=True)
    late = f"the console did not answer within {duration(timeouts.request)}, try again"
    yield _Reply(504, "console_timeout", "Timeout", late, 4, console=True)
    large = f"the body is larger than {BODY_BYTES} bytes"
    yield _Reply(413, "too_large", "Too large", large, 8, checked=False, console=True)


def _of_applications(policy: Policy, timeouts: Timeouts) -> Iterator[_Reply]:
    if any(route.upstream for route in policy.routes):
        silent = "the application does not answer, try again"
        yield _Reply(503, "application_unavailable", "Unavailable", silent, 14, retry_after=1, application=True)
        late = f"the application did not answer within {duration(timeouts.request)}, try again"
        yield _Reply(504, "application_timeout", "Timeout", late, 4, application=True)


def _to_grpc(reply: _Reply) -> Json:
    decision = _IN_DECISION if reply.checked else ""
    message = f"{reply.code}: {reply.grpc_detail or reply.detail}{decision}"
    return {
        "filter": _all(*_conditions(reply), _IS_GRPC),
        "body_format_override": {"text_format_source": {"inline_string": message}},
        "headers_to_add": _headers({"grpc-status": str(reply.grpc)}, reply.retry_after),
    }


def _to_http(reply: _Reply, base: str) -> Json:
    problem = {
        "type": f"{base}{reply.code}",
        "title": reply.title,
        "status": reply.http,
        "detail": reply.detail,
        "code": reply.code,
        "error": reply.detail + (_IN_DECISION if reply.checked else ""),
        "decision_id": _DECISION,
        **({"retry_after": reply.retry_after} if reply.retry_after else {}),
    }
    return {
        "filter": _all(*_conditions(reply)),
        "body_format_override": _json(problem),
        "headers_to_add": _headers({}, reply.retry_after),
    }


def _any_other(base: str) -> Iterator[Json]:
    """What a client did wrong below the level of requests, above all: Envoy's name for it is all that is known."""
    refused, headers = _status("GE", 400, "any_other"), _headers({})
    message = {"inline_string": f"protocol_error: {_OTHER}"}
    yield {
        "filter": _all(refused, _IS_GRPC),
        "body_format_override": {"text_format_source": message},
        "headers_to_add": headers,
    }
    problem = {
        "type": f"{base}protocol_error",
        "title": "Refused by the proxy",
        "status": "%RESPONSE_CODE%",
        "detail": _OTHER,
        "code": "protocol_error",
        "error": _OTHER,
    }
    yield {"filter": refused, "body_format_override": _json(problem), "headers_to_add": headers}


def _conditions(reply: _Reply) -> list[Json]:
    status = _status("EQ", reply.http, reply.code)
    if reply.console:
        path = {"name": ":path", "string_match": {"safe_regex": {"regex": EVERYWHERE}}}
        return [status, {"header_filter": {"header": path}}]
    if reply.application:
        return [status, {"header_filter": {"header": {"name": UPSTREAM, "present_match": True}}}]
    return [status, {"response_flag_filter": {"flags": ["UAEX"]}}] if reply.code == "unavailable" else [status]


def _status(op: str, code: int, name: str) -> Json:
    value = {"default_value": code, "runtime_key": f"tollgate.{name}"}
    return {"status_code_filter": {"comparison": {"op": op, "value": value}}}


def _headers(reply: Mapping[str, str], retry_after: int = 0) -> list[Json]:
    headers = {**reply, "cache-control": "no-store", **({"retry-after": str(retry_after)} if retry_after else {})}
    return [{"header": {"key": key, "value": value}} for key, value in headers.items()]


def _json(problem: Json) -> Json:
    """Without what is empty, such as the decision where there was none."""
    return {"json_format": problem, "content_type": "application/problem+json", "omit_empty_values": True}


def _all(*wanted: Json) -> Json:
    return {"and_filter": {"filters": list(wanted)}} if len(wanted) > 1 else wanted[0]


_IS_GRPC: Json = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}


def _expression(cel: str) -> Json:
    kind = "access_loggers.filters.cel.v3.ExpressionFilter"
    name = "envoy.access_loggers.extension_filters.cel"
    return {"extension_filter": {"name": name, "typed_config": {"@type": f"{_EXTENSIONS}.{kind}", "expression": cel}}}


_BY_THE_AUTHORIZER = _expression("'cache-control' in response.headers")
"""Every refusal of the authorizer has that header, and nothing that Envoy answers by itself."""
