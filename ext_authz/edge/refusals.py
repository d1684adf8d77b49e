"""What the caller of a refused request receives. The only table from reasons to HTTP and gRPC statuses.

Text only: `response.py` puts it into Envoy's messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

import msgspec
from msgspec import Struct

from ext_authz.decision import Answer, Deny, Quota, Reason
from ext_authz.policy.model import Responses
from ext_authz.policy.routes import OPTIONS

Cause = tuple[Reason, str, str]
"""Reason, code and detail as the caller reads them."""


class Refusal(Struct, frozen=True):
    """One row of the table."""

    http: int
    grpc: int
    """`grpc-status`, and the code of the CheckResponse: never 0."""
    title: str
    challenge: str | None = None
    """`error` of WWW-Authenticate, empty when no credential came (RFC 6750 section 3.1); every 401 has a challenge."""
    retry_after: int = 0
    """Seconds, when the decision has no hint of its own."""
    shown_as: Cause | None = None
    """Where the decision's own cause is for the operator only."""


_NOT_ACCEPTED = (Reason.INVALID_CREDENTIAL, "invalid_token", "the token is not accepted")
_UNAVAILABLE = (Reason.UNAVAILABLE, "unavailable", "the request could not be decided, try again")
_INTERNAL = (Reason.INTERNAL, "internal", "the request could not be decided")

REFUSALS: Mapping[Reason, Refusal] = {
    Reason.BAD_REQUEST: Refusal(400, 3, "Bad request"),
    Reason.NO_ROUTE: Refusal(404, 12, "Not found"),
    Reason.METHOD_NOT_ALLOWED: Refusal(405, 12, "Method not allowed"),
    Reason.NO_CREDENTIAL: Refusal(401, 16, "Credential needed", challenge=""),
    Reason.INVALID_REQUEST: Refusal(400, 3, "Credential not understood", challenge="invalid_request"),
    Reason.INVALID_CREDENTIAL: Refusal(401, 16, "Credential not accepted", challenge="invalid_token"),
    # A thief need not learn that the token was found out; the operator finds the cause by the decision id.
    Reason.REVOKED: Refusal(401, 16, "Credential not accepted", challenge="invalid_token", shown_as=_NOT_ACCEPTED),
    Reason.FORBIDDEN: Refusal(403, 7, "Not permitted", challenge="insufficient_scope"),
    Reason.OVER_LIMIT: Refusal(429, 8, "Limit reached"),
    Reason.UNAVAILABLE: Refusal(503, 14, "Unavailable", retry_after=1, shown_as=_UNAVAILABLE),
    Reason.INTERNAL: Refusal(500, 13, "Internal error", shown_as=_INTERNAL),
}

_PROOF = "proof_"
"""How the codes of refused DPoP proofs begin."""
_INT32_MAX = 2**31 - 1
_RESOURCE_EXHAUSTED = 8


class Rendered(Struct, frozen=True):
    """One refusal, written out."""

    http: int
    grpc: int
    headers: tuple[tuple[str, str], ...]
    body: str


class Refusals:
    """Writes refusals out, as the policy's `responses` wants them."""

    def __init__(self, realm: str, responses: Responses) -> None:
        self._realm = quotable(realm)
        self._responses = responses
        self._problem_base = quotable(responses.problem_base)
        metadata = quotable(responses.resource_metadata)
        self._where_to_get_a_token = f', resource_metadata="{metadata}"' if metadata else ""

    def render(self, deny: Deny, *, grpc: bool) -> Rendered:
        """For a caller over gRPC, or over plain HTTP."""
        if deny.code == OPTIONS and not grpc:
            return self._methods(deny)
        # What has no row was never meant to refuse: a bug, and refused as one.
        refusal = REFUSALS.get(deny.reason, REFUSALS[Reason.INTERNAL])
        reason, code, detail = refusal.shown_as or (deny.reason, deny.code, deny.detail)
        cause = reason, code, detail if self._responses.hints else refusal.title
        body = _status_message(deny, cause) if grpc else self._problem(deny, refusal, cause)
        return Rendered(refusal.http, refusal.grpc, tuple(self._headers(deny, refusal, cause[2], grpc=grpc)), body)

    def _methods(self, deny: Deny) -> Rendered:
        """RFC 9110 section 9.3.7: no refusal to the caller, but one to Envoy."""
        decision = (("x-decision-id", deny.decision_id),) if self._responses.decision_header else ()
        headers = (*decision, ("cache-control", "no-store"), ("allow", quotable(deny.scope)))
        return Rendered(204, REFUSALS[deny.reason].grpc, headers, "")

    def _headers(self, deny: Deny, refusal: Refusal, detail: str, *, grpc: bool) -> Iterator[tuple[str, str]]:
        yield from self.common_headers(deny)
        if refusal.challenge is not None:
            yield "www-authenticate", self._challenges(refusal.challenge, detail, deny)
        if deny.nonce:
            yield "dpop-nonce", quotable(deny.nonce)
        if deny.reason is Reason.METHOD_NOT_ALLOWED and deny.scope:
            yield "allow", quotable(deny.scope)
        retry_after = deny.retry_after or refusal.retry_after
        if retry_after:
            yield "retry-after", str(retry_after)
        yield from _grpc_headers(refusal, retry_after) if grpc else (("content-type", "application/problem+json"),)

    def common_headers(self, decision: Deny | Answer) -> Iterator[tuple[str, str]]:
        """Of everything that Tollgate sends in place of a model."""
        if self._responses.decision_header:
            yield "x-decision-id", decision.decision_id
        yield "cache-control", "no-store"
        if decision.quotas and self._responses.ratelimit_headers:
            yield "ratelimit-policy", rate_limit_policy(decision.quotas)
            yield "ratelimit", rate_limit(decision.quotas)

    def _challenges(self, error: str, detail: str, deny: Deny) -> str:
        """RFC 6750 section 3, RFC 9449 section 7.1, RFC 9728 section 5.1. One header with both: of two, Envoy would
        keep the last."""
        algorithms = f'algs="{" ".join(self._responses.dpop)}"'
        if deny.code.startswith(_PROOF):
            error = "use_dpop_nonce" if deny.nonce else "invalid_dpop_proof"
            return f"{self._challenge('DPoP', error, detail)}, {algorithms}"
        challenge = self._challenge("Bearer", error, detail, deny.scope)
        return f"{challenge}, DPoP {algorithms}" if self._responses.dpop else challenge

    def _challenge(self, scheme: str, error: str, detail: str, scope: str = "") -> str:
        challenge = f'{scheme} realm="{self._realm}"'
        if error:
            challenge += f', error="{error}", error_description="{quotable(detail)}"'
        if error == "insufficient_scope" and scope and self._responses.hints:
            challenge += f', scope="{quotable(scope)}"'
        return challenge + self._where_to_get_a_token

    def _problem(self, deny: Deny, refusal: Refusal, cause: Cause) -> str:
        """RFC 9457 and `code`, `decision_id`, `retry_after`; clients of Triton show nothing but `error`."""
        reason, code, detail = cause
        problem: dict[str, str | int] = {
            "type": self._problem_base + reason,
            "title": refusal.title,
            "status": refusal.http,
            "detail": printable(detail),
            "instance": f"urn:uuid:{deny.decision_id}",
            "code": printable(code),
            "decision_id": deny.decision_id,
            "error": printable(detail) + _in_decision(deny),
        }
        retry_after = deny.retry_after or refusal.retry_after
        if retry_after:
            problem["retry_after"] = retry_after
        return msgspec.json.encode(problem).decode()


def _status_message(deny: Deny, cause: Cause) -> str:
    _, code, detail = cause
    return printable(f"{code}: {detail}") + _in_decision(deny)


def _in_decision(deny: Deny) -> str:
    """In the text itself: clients of Triton drop headers, trailers and all members but `error`."""
    return f" (decision {deny.decision_id})"


def _grpc_headers(refusal: Refusal, retry_after: int) -> Iterator[tuple[str, str]]:
    # Without it Envoy makes UNAVAILABLE of a 429, which clients try again at once.
    yield "grpc-status", str(refusal.grpc)
    if retry_after:
        yield "grpc-retry-pushback-ms", str(min(retry_after * 1000, _INT32_MAX))
    elif refusal.grpc == _RESOURCE_EXHAUSTED:
        yield "grpc-retry-pushback-ms", "-1"  # not to be retried (gRFC A6)


def rate_limit_policy(quotas: tuple[Quota, ...]) -> str:
    """draft-ietf-httpapi-ratelimit-headers-09 section 3."""
    return ", ".join([f'"{quotable(quota.name)}";q={quota.limit};w={quota.window}' for quota in quotas])


def rate_limit(quotas: tuple[Quota, ...]) -> str:
    """draft-ietf-httpapi-ratelimit-headers-09 section 4."""
    return ", ".join([f'"{quotable(quota.name)}";r={quota.remaining};t={quota.reset}' for quota in quotas])


@lru_cache(maxsize=1024)
def quotable(text: str) -> str:
    """Fit for a quoted string: the characters that RFC 6750 section 3 allows in error_description."""
    return re.sub(r"[^\x20\x21\x23-\x5B\x5D-\x7E]", "?", text)


def printable(text: str) -> str:
    """Fit for protobuf and JSON, which take no lone surrogates (a claim may hold them), and free of DEL."""
    return text.encode(errors="backslashreplace").decode().replace("\x7f", "?")
