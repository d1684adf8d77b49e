"""Decision -> CheckResponse, as bytes.

An empty CheckResponse means *allow* to Envoy, and so does any without a code: `Responder.build` is the only
constructor, and its refusals cannot leave the code out.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from ext_authz.bounded import BoundedCache
from ext_authz.decision import Allow, Answer, Decision, Deny, Principal, Quota, Reason
from ext_authz.edge.refusals import REFUSALS, Refusals, printable, rate_limit, rate_limit_policy
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse, HeaderValueOption, StatusCode
from ext_authz.policy.model import Responses
from ext_authz.policy.names import CONSOLE

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    Headers = RepeatedCompositeFieldContainer[HeaderValueOption]


Target = tuple[str, str, str, bool, str, bool]
"""Model, version, the version that answers, whether the call may reach every model, the application that serves it, and
whether that gets the token, as in `Allow`."""

_TOKEN, _PROOF = "authorization", "dpop"
"""The caller's token and its proof, which the console gets, and no model."""
_REMOVED = ("x-envoy-auth-failure-mode-allowed", "x-envoy-auth-partial-body")
"""What only Envoy may say of a check."""

_VARIANT = "x-model-variant"
"""Overwritten on every request, also where there is no experiment: routes go by it."""

_UPSTREAM = "x-authz-upstream"
"""Only where an application serves the path: routes to it go by it. From callers the proxy takes it away."""

_SERVED = "x-model-version"

_ENDS = "x-envoy-upstream-stream-duration-ms"
"""Read by Envoy's router, which then takes it away. 0 would mean: never; and Envoy would honour a caller's own."""

_ROLES_BYTES = 4096
"""A gRPC server takes 8 KiB of headers all together by default, Triton's HTTP server about as much."""
_MORE = "!more"

_NOBODY = "-"
"""Stands for an empty value: Envoy may drop an empty header and let the caller's own copy live."""

_EVERY = "*"
"""What was authorised for every model, or for every version of one. No model and no version is called so."""

_NOT_FORWARDED = 7
"""Of an answer: any code but 0, by which Envoy would forward the request."""

_ID_PLACEHOLDER = "\x7f" * 36
"""Where a decision id (a UUID in its text form) will stand. No other text that goes into a response may hold DEL:
`_header_value`, `quotable` and `printable` see to it, so a caller cannot write a placeholder."""

_CALLERS_BYTES = 16 << 20
_REFUSALS_BYTES = 4 << 20


class Responder:
    """Builds every response, nearly always from cached serialised parts; only the decision id is always new."""

    def __init__(self, realm: str, responses: Responses, policy_hash: str) -> None:
        self._refusals = Refusals(realm, responses)
        self._policy_hash = policy_hash
        self._id_frame = _frame_decision_id(for_caller=responses.decision_header)
        self._quota_part = _quota_part if responses.ratelimit_headers else _no_quota_part
        self._callers: BoundedCache[Hashable, bytes] = BoundedCache(_CALLERS_BYTES)
        self._refused: BoundedCache[Hashable, tuple[bytes, ...]] = BoundedCache(_REFUSALS_BYTES)

    def build(self, decision: Decision, request_is_grpc: bool) -> bytes:  # noqa: FBT001 - a fact, not a switch
        """One serialised CheckResponse."""
        decision_id = decision.decision_id.encode()
        if len(decision_id) != len(_ID_PLACEHOLDER):
            raise ValueError("a decision id is a UUID in its text form")
        if isinstance(decision, Allow):
            # Protobuf merges repeated occurrences of a message field, so parts may simply stand side by side.
            model, version, served = decision.model, decision.version, decision.served
            target = model, version, served, decision.every_model, decision.upstream, decision.keeps_token
            caller = self._caller_part(decision.principal, decision.route, target, decision.variant)
            message = caller + decision_id.join(self._id_frame) + _end_part(decision.lasts)
            message += self._quota_part(decision.quotas)
            return message + _degraded_part(decision.degraded) if decision.degraded else message
        if isinstance(decision, Answer):
            return self._serialise_answer(decision)
        template = replace(decision, decision_id=_ID_PLACEHOLDER)
        return decision_id.join(self._refusal_frame(template, request_is_grpc))

    def _caller_part(self, principal: Principal, route: str, target: Target, variant: str) -> bytes:
        key = (principal, route, target, variant)
        part = self._callers.get(key)
        if part is None:
            part = self._serialise_caller(*key)
            self._callers.put(key, part, 2 * len(part))  # the key is about as long
        return part

    def _refusal_frame(self, deny: Deny, grpc: bool) -> tuple[bytes, ...]:  # noqa: FBT001 - part of a cache key
        key = (deny, grpc)
        frame = self._refused.get(key)
        if frame is None:
            frame = self._frame_refusal(*key)
            self._refused.put(key, frame, 2 * sum(map(len, frame)))
        return frame

    def _serialise_caller(self, principal: Principal, route: str, target: Target, variant: str) -> bytes:
        """All of an Allow that stays the same from one request of this caller to the next."""
        message = CheckResponse()
        message.status.code = 0
        headers = message.ok_response.headers
        _set(headers, "x-user-id", _header_value(principal.subject))
        _set(headers, "x-client-id", _header_value(principal.client))
        _set(headers, "x-user-roles", _roles(principal.roles))
        _set(headers, "x-token-issuer", _header_value(principal.issuer))
        model, version, served, every_model, upstream, keeps_token = target
        for name, value in _target_headers(model, version, every_model):
            _set(headers, name, value)
        _set(headers, _VARIANT, _header_value(variant))
        if upstream:
            _set(headers, _UPSTREAM, upstream)
        credential = () if upstream == CONSOLE else (_PROOF,) if keeps_token else (_TOKEN, _PROOF)
        message.ok_response.headers_to_remove.extend((*credential, *_REMOVED))
        self._describe(message, principal, route=route, model=model, reason=Reason.ALLOWED, code=Reason.ALLOWED)
        if served:
            _set(message.ok_response.response_headers_to_add, _SERVED, served)
        if variant:
            _set(message.ok_response.response_headers_to_add, _VARIANT, _header_value(variant))
            message.dynamic_metadata.fields["variant"].string_value = printable(variant)
        return message.SerializeToString()

    def _frame_refusal(self, deny: Deny, grpc: bool) -> tuple[bytes, ...]:  # noqa: FBT001 - part of a cache key
        """A refusal, cut wherever its decision id stands."""
        text = self._refusals.render(deny, grpc=grpc)
        message = CheckResponse()
        message.status.code = text.grpc
        # Only "no verdict" is an error to Envoy: a mesh that fails open lets every error_response through.
        response = message.error_response if deny.reason is Reason.UNAVAILABLE else message.denied_response
        response.status.code = cast("StatusCode.ValueType", text.http)
        for name, value in text.headers:
            _set(response.headers, name, value)
        response.body = text.body
        self._describe(message, deny.principal, route=deny.route, model=deny.model, reason=deny.reason, code=deny.code)
        message.dynamic_metadata.fields["decision_id"].string_value = deny.decision_id
        if deny.degraded:
            message.dynamic_metadata.fields["degraded"].string_value = deny.degraded
        return tuple(message.SerializeToString().split(_ID_PLACEHOLDER.encode()))

    def _serialise_answer(self, answer: Answer) -> bytes:
        """As a refusal with status 200: Envoy sends its headers and body, and calls no upstream."""
        message = CheckResponse()
        message.status.code = _NOT_FORWARDED
        response = message.denied_response
        response.status.code = cast("StatusCode.ValueType", 200)
        for name, value in (*self._refusals.common_headers(answer), ("content-type", "application/json")):
            _set(response.headers, name, value)
        response.body = msgspec.json.encode(answer.document).decode()
        self._describe(message, answer.principal, route=answer.route, reason=Reason.ALLOWED, code="answered")
        message.dynamic_metadata.fields["decision_id"].string_value = answer.decision_id
        return message.SerializeToString()

    def _describe(self, message: CheckResponse, principal: Principal, **fields: str) -> None:
        """For Envoy's access log."""
        fields |= {"subject": principal.subject, "client": principal.client, "policy": self._policy_hash}
        fields |= {"issuer": principal.issuer, "token_id": principal.token_id}
        for name, value in fields.items():
            message.dynamic_metadata.fields[name].string_value = printable(value)


def _undecided(*, grpc: bool) -> bytes:
    refusal = REFUSALS[Reason.INTERNAL]
    message = CheckResponse()
    message.status.code = refusal.grpc
    response = message.denied_response
    response.status.code = cast("StatusCode.ValueType", refusal.http)
    _set(response.headers, "cache-control", "no-store")
    name, value = ("grpc-status", str(refusal.grpc)) if grpc else ("content-type", "application/problem+json")
    _set(response.headers, name, value)
    problem = {"type": "about:blank", "title": refusal.title, "status": refusal.http, "error": refusal.title}
    response.body = refusal.title if grpc else json.dumps(problem)
    return message.SerializeToString()


def _target_headers(model: str, version: str, every_model: bool) -> Iterator[tuple[str, str]]:  # noqa: FBT001 - a fact
    """What a model compares with itself before it serves: the model and version that were authorised."""
    yield "x-authz-model", _EVERY if every_model else _header_value(model)
    yield "x-authz-version", _EVERY if every_model else _header_value(version) if version or not model else _EVERY


def _frame_decision_id(*, for_caller: bool) -> tuple[bytes, ...]:
    """The part of an Allow that names the decision, cut where its id stands. The model always receives it."""
    message = CheckResponse()
    _set(message.ok_response.headers, "x-decision-id", _ID_PLACEHOLDER)
    if for_caller:
        _set(message.ok_response.response_headers_to_add, "x-decision-id", _ID_PLACEHOLDER)
    message.dynamic_metadata.fields["decision_id"].string_value = _ID_PLACEHOLDER
    return tuple(message.SerializeToString().split(_ID_PLACEHOLDER.encode()))


def _end_part(milliseconds: int) -> bytes:
    """When Envoy is to end the call."""
    text = b"%d" % max(1, milliseconds)
    before, after = _frame_end(len(text))
    return before + text + after


@lru_cache(maxsize=32)
def _frame_end(length: int) -> tuple[bytes, bytes]:
    """Cut where a number of this length stands."""
    placeholder = "~" * length
    message = CheckResponse()
    _set(message.ok_response.headers, _ENDS, placeholder)
    before, _, after = message.SerializeToString().rpartition(placeholder.encode())
    return before, after


def _degraded_part(dependency: str) -> bytes:
    """For Envoy's access log: the decision was made without this dependency. Not for callers."""
    message = CheckResponse()
    message.dynamic_metadata.fields["degraded"].string_value = dependency
    return message.SerializeToString()


def _no_quota_part(_: tuple[Quota, ...]) -> bytes:
    return b""


def _quota_part(quotas: tuple[Quota, ...]) -> bytes:
    if not quotas:
        return b""
    value = rate_limit(quotas).encode()
    before, after = _frame_rate_limit(rate_limit_policy(quotas), len(value))
    return before + value + after


@lru_cache(maxsize=4096)
def _frame_rate_limit(policy: str, length: int) -> tuple[bytes, bytes]:
    """The part of an Allow with the quotas, cut where a RateLimit of this length stands."""
    placeholder = "~" * length
    message = CheckResponse()
    _set(message.ok_response.response_headers_to_add, "ratelimit-policy", policy)
    _set(message.ok_response.response_headers_to_add, "ratelimit", placeholder)
    # The last run of that length is the placeholder, whatever the limits are called.
    before, _, after = message.SerializeToString().rpartition(placeholder.encode())
    return before, after


def _set(headers: Headers, key: str, value: str) -> None:
    """Overwrite, said in both ways: which of the two Envoy obeys depends on its version (envoy issue 42857)."""
    option = headers.add(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.append.value = False
    option.header.key = key
    option.header.value = value


def _header_value(text: str) -> str:
    """Percent-encoded, so that no claim can break a header or a list of values."""
    if text == _NOBODY:
        return "%2D"
    return quote(text, safe="/:@+=", errors="surrogatepass") or _NOBODY


def _roles(roles: tuple[str, ...]) -> str:
    """As many as fit; then a marker that no role can be written as."""
    fit: list[str] = []
    left = _ROLES_BYTES - len(_MORE)
    for role in map(_header_value, roles):
        left -= len(role) + 1
        if left < 0:
            return ",".join([*fit, _MORE])
        fit.append(role)
    return ",".join(fit) or _NOBODY


UNDECIDED = _undecided(grpc=False), _undecided(grpc=True)
"""The responses, over plain HTTP and over gRPC, when no other can be built. They need nothing but their bytes."""
