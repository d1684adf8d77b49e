"""Deny -> CheckResponse."""

from __future__ import annotations

import json

import pytest

from ext_authz.decision import Deny, Principal, Quota, Reason
from ext_authz.edge.refusals import REFUSALS
from ext_authz.edge.response import Responder
from ext_authz.policy.model import Responses
from tests.unit.edge.answers import DECISION_ID, headers, metadata, read, refusal

RESPONDER = Responder("triton", Responses("https://docs.example/problems/"), "0123456789abcdef")
REFUSING = [reason for reason in Reason if reason is not Reason.ALLOWED]
STATUSES = {
    Reason.BAD_REQUEST: (400, 3),
    Reason.NO_ROUTE: (404, 12),
    Reason.METHOD_NOT_ALLOWED: (405, 12),
    Reason.NO_CREDENTIAL: (401, 16),
    Reason.INVALID_REQUEST: (400, 3),
    Reason.INVALID_CREDENTIAL: (401, 16),
    Reason.REVOKED: (401, 16),
    Reason.FORBIDDEN: (403, 7),
    Reason.OVER_LIMIT: (429, 8),
    Reason.UNAVAILABLE: (503, 14),
    Reason.INTERNAL: (500, 13),
}
HOSTILE = '\r\nx-user-id: root\r\n\r\n"\\\x00\x7fé\ud800' + "\x7f" * 36

every_reason = pytest.mark.parametrize("reason", REFUSING)
every_caller = pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])


def _deny(
    reason: Reason = Reason.FORBIDDEN,
    *,
    grpc: bool = False,
    code: str = "some_code",
    detail: str = "some detail",
    scope: str = "",
    retry_after: int = 0,
    quotas: tuple[Quota, ...] = (),
) -> bytes:
    decision = Deny(DECISION_ID, reason, code, detail, scope=scope, retry_after=retry_after, quotas=quotas)
    return RESPONDER.build(decision, request_is_grpc=grpc)


def _headers(message: bytes) -> dict[str, str]:
    return headers(refusal(message).headers)


def _problem(message: bytes) -> dict[str, object]:
    problem: dict[str, object] = json.loads(refusal(message).body)
    return problem


def test_every_reason_to_refuse_has_a_row() -> None:
    assert REFUSALS.keys() == set(REFUSING) == STATUSES.keys()


@every_reason
@every_caller
def test_statuses(reason: Reason, *, grpc: bool) -> None:
    message = _deny(reason, grpc=grpc)
    http_status, grpc_status = STATUSES[reason]

    assert read(message).status.code == grpc_status != 0
    assert refusal(message).status.code == http_status
    assert _headers(message).get("grpc-status") == (str(grpc_status) if grpc else None)


@every_caller
def test_a_refusal_that_says_allowed_is_a_bug_and_refuses(*, grpc: bool) -> None:
    message = _deny(Reason.ALLOWED, grpc=grpc)

    assert read(message).status.code == 13
    assert refusal(message).status.code == 500
    assert "internal" in refusal(message).body


@every_reason
@every_caller
def test_only_unavailable_is_an_error_to_envoy(reason: Reason, *, grpc: bool) -> None:
    """A mesh that fails open lets every error_response through."""
    kind = read(_deny(reason, grpc=grpc)).WhichOneof("http_response")

    assert kind == ("error_response" if reason is Reason.UNAVAILABLE else "denied_response")


@every_reason
@every_caller
def test_every_401_carries_a_challenge(reason: Reason, *, grpc: bool) -> None:
    challenge = _headers(_deny(reason, grpc=grpc)).get("www-authenticate", "")

    assert challenge.startswith('Bearer realm="triton"') == (
        STATUSES[reason][0] == 401 or reason in (Reason.FORBIDDEN, Reason.INVALID_REQUEST)
    )


@pytest.mark.parametrize(
    ("reason", "scope", "challenge"),
    [
        (Reason.NO_CREDENTIAL, "", 'Bearer realm="triton"'),
        (
            Reason.INVALID_REQUEST,
            "",
            'Bearer realm="triton", error="invalid_request", error_description="some detail"',
        ),
        (
            Reason.INVALID_CREDENTIAL,
            "ignored",
            'Bearer realm="triton", error="invalid_token", error_description="some detail"',
        ),
        (
            Reason.REVOKED,
            "",
            'Bearer realm="triton", error="invalid_token", error_description="the token is not accepted"',
        ),
        (
            Reason.FORBIDDEN,
            "infer admin",
            'Bearer realm="triton", error="insufficient_scope", error_description="some detail", scope="infer admin"',
        ),
        (
            Reason.FORBIDDEN,
            "",
            'Bearer realm="triton", error="insufficient_scope", error_description="some detail"',
        ),
    ],
)
def test_challenges(reason: Reason, scope: str, challenge: str) -> None:
    assert _headers(_deny(reason, scope=scope))["www-authenticate"] == challenge


@every_reason
@every_caller
def test_a_challenge_says_where_to_learn_how_to_get_a_token(reason: Reason, *, grpc: bool) -> None:
    metadata = "https://models.example.com/.well-known/oauth-protected-resource"
    responder = Responder("triton", Responses(resource_metadata=metadata), "h")
    deny = Deny(DECISION_ID, reason, "some_code", "some detail", scope="GET")
    challenge = _headers(responder.build(deny, request_is_grpc=grpc)).get("www-authenticate")
    without = _headers(_deny(reason, scope="GET")).get("www-authenticate")

    assert challenge == (without and f'{without}, resource_metadata="{metadata}"')


PROVING = Responder("triton", Responses(resource_metadata="https://m.example/d", dpop=("ES256", "EdDSA")), "h")
_WHERE = 'resource_metadata="https://m.example/d"'


def challenge_of(deny: Deny, *, grpc: bool) -> str:
    return _headers(PROVING.build(deny, request_is_grpc=grpc))["www-authenticate"]


@every_caller
def test_where_proofs_are_verified_every_challenge_says_so(*, grpc: bool) -> None:
    """RFC 9449 section 7.1, in one header: of two, Envoy would keep the last."""
    none = Deny(DECISION_ID, Reason.NO_CREDENTIAL, "credential_missing", "some detail")
    assert challenge_of(none, grpc=grpc) == f'Bearer realm="triton", {_WHERE}, DPoP algs="ES256 EdDSA"'
    expired = Deny(DECISION_ID, Reason.INVALID_CREDENTIAL, "token_expired", "some detail")
    assert challenge_of(expired, grpc=grpc).startswith('Bearer realm="triton", error="invalid_token"')
    assert challenge_of(expired, grpc=grpc).endswith(', DPoP algs="ES256 EdDSA"')


@every_caller
def test_the_challenge_of_a_refused_proof(*, grpc: bool) -> None:
    refused = Deny(DECISION_ID, Reason.INVALID_CREDENTIAL, "proof_mismatch", "some detail")
    error = 'error="invalid_dpop_proof", error_description="some detail"'
    assert challenge_of(refused, grpc=grpc) == f'DPoP realm="triton", {error}, {_WHERE}, algs="ES256 EdDSA"'
    assert "dpop-nonce" not in _headers(PROVING.build(refused, request_is_grpc=grpc))


@every_caller
def test_a_nonce_goes_with_the_refusal_that_asks_for_it(*, grpc: bool) -> None:
    asks = Deny(DECISION_ID, Reason.INVALID_CREDENTIAL, "proof_nonce", "some detail", nonce="abc")
    assert 'DPoP realm="triton", error="use_dpop_nonce"' in challenge_of(asks, grpc=grpc)
    assert _headers(PROVING.build(asks, request_is_grpc=grpc))["dpop-nonce"] == "abc"


def test_who_asks_for_the_methods_gets_them() -> None:
    message = _deny(Reason.METHOD_NOT_ALLOWED, code="options", scope="GET, HEAD, OPTIONS")

    assert (refusal(message).status.code, refusal(message).body) == (204, "")
    assert read(message).status.code == 12
    sent = {"allow": "GET, HEAD, OPTIONS", "cache-control": "no-store", "x-decision-id": DECISION_ID}
    assert _headers(message) == sent
    assert refusal(_deny(Reason.METHOD_NOT_ALLOWED, code="options", grpc=True)).body.startswith("options: ")


def test_an_http_caller_gets_a_problem() -> None:
    message = _deny(Reason.OVER_LIMIT, retry_after=12)

    assert _headers(message)["content-type"] == "application/problem+json"
    assert json.loads(refusal(message).body) == {
        "type": "https://docs.example/problems/over_limit",
        "title": "Limit reached",
        "status": 429,
        "detail": "some detail",
        "instance": f"urn:uuid:{DECISION_ID}",
        "code": "some_code",
        "decision_id": DECISION_ID,
        "error": f"some detail (decision {DECISION_ID})",
        "retry_after": 12,
    }


def test_a_problem_has_no_retry_hint_where_waiting_does_not_help() -> None:
    message = _deny(Reason.FORBIDDEN)

    assert "retry_after" not in json.loads(refusal(message).body)
    assert "retry-after" not in _headers(message)


def test_a_grpc_caller_gets_one_short_line() -> None:
    """Envoy makes grpc-message of it, percent-encoded; clients of Triton drop the trailers."""
    message = _deny(Reason.OVER_LIMIT, grpc=True)

    assert refusal(message).body == f"some_code: some detail (decision {DECISION_ID})"
    assert "content-type" not in _headers(message)


@every_reason
@every_caller
def test_every_refusal_names_the_decision_and_is_not_cached(reason: Reason, *, grpc: bool) -> None:
    message = _deny(reason, grpc=grpc)

    assert _headers(message)["x-decision-id"] == DECISION_ID
    assert _headers(message)["cache-control"] == "no-store"
    assert metadata(message)["decision_id"] == DECISION_ID


@pytest.mark.parametrize(
    ("reason", "retry_after", "seconds"),
    [
        (Reason.OVER_LIMIT, 37, "37"),
        (Reason.OVER_LIMIT, 1, "1"),
        (Reason.UNAVAILABLE, 5, "5"),
        (Reason.UNAVAILABLE, 0, "1"),
    ],
)
def test_when_to_come_back(reason: Reason, retry_after: int, seconds: str) -> None:
    http, grpc = (_headers(_deny(reason, grpc=grpc, retry_after=retry_after)) for grpc in (False, True))

    assert (http["retry-after"], grpc["retry-after"]) == (seconds, seconds)
    assert grpc["grpc-retry-pushback-ms"] == f"{seconds}000"
    assert "grpc-retry-pushback-ms" not in http


def test_what_never_fits_is_not_to_be_retried() -> None:
    http, grpc = (_headers(_deny(Reason.OVER_LIMIT, grpc=grpc)) for grpc in (False, True))

    assert "retry-after" not in {**http, **grpc}
    assert grpc["grpc-retry-pushback-ms"] == "-1"


def test_pushback_fits_an_int32() -> None:
    """A client takes what it cannot parse for "never try again"."""
    assert _headers(_deny(Reason.OVER_LIMIT, grpc=True, retry_after=10**9))["grpc-retry-pushback-ms"] == "2147483647"


@every_reason
def test_grpc_callers_get_no_pushback_where_waiting_does_not_help(reason: Reason) -> None:
    pushed_back = "grpc-retry-pushback-ms" in _headers(_deny(reason, grpc=True))

    assert pushed_back == (reason in (Reason.OVER_LIMIT, Reason.UNAVAILABLE))


@every_caller
def test_quotas_are_told_on_a_refusal_too(*, grpc: bool) -> None:
    sent = _headers(_deny(Reason.OVER_LIMIT, grpc=grpc, quotas=(Quota("user", 10, 60, 0, 37),)))

    assert (sent["ratelimit-policy"], sent["ratelimit"]) == ('"user";q=10;w=60', '"user";r=0;t=37')


def test_a_405_names_the_methods_that_are_allowed() -> None:
    assert _headers(_deny(Reason.METHOD_NOT_ALLOWED, scope="GET, POST"))["allow"] == "GET, POST"
    assert "allow" not in _headers(_deny(Reason.METHOD_NOT_ALLOWED))
    assert "allow" not in _headers(_deny(Reason.FORBIDDEN, scope="GET, POST"))


@every_caller
def test_a_revoked_token_is_told_apart_in_the_log_only(*, grpc: bool) -> None:
    revoked = _deny(Reason.REVOKED, grpc=grpc, code="session_revoked", detail="logged out by an administrator")
    invalid = _deny(Reason.INVALID_CREDENTIAL, grpc=grpc, code="invalid_token", detail="the token is not accepted")

    assert refusal(revoked) == refusal(invalid)
    assert (metadata(revoked)["reason"], metadata(revoked)["code"]) == ("revoked", "session_revoked")


@pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.INTERNAL])
@every_caller
def test_our_own_failures_are_not_described_to_the_caller(reason: Reason, *, grpc: bool) -> None:
    message = _deny(reason, grpc=grpc, code="redis", detail="redis://10.0.0.7 refused")

    assert "redis" not in str(refusal(message))
    assert metadata(message)["code"] == "redis"


@every_reason
@every_caller
def test_no_text_can_break_out_of_a_header_or_the_body(reason: Reason, *, grpc: bool) -> None:
    message = _deny(reason, grpc=grpc, code=HOSTILE, detail=HOSTILE, scope=HOSTILE)
    sent = _headers(message)

    assert all(value.isascii() and value.isprintable() for value in sent.values())
    assert sent.keys() == _headers(_deny(reason, grpc=grpc, scope="s")).keys()
    quotes = sent.get("www-authenticate", "").count('"')
    assert quotes == _headers(_deny(reason, scope="s")).get("www-authenticate", "").count('"')
    assert grpc or json.loads(refusal(message).body)["status"] == STATUSES[reason][0]


def test_access_log_metadata() -> None:
    principal = Principal("https://kc.example", "alice", "web-app", ("infer",), "jti-1")
    decision = Deny(DECISION_ID, Reason.FORBIDDEN, "role_missing", "no", "infer", principal, "infer", "sentiment")

    assert metadata(RESPONDER.build(decision, request_is_grpc=False)) == {
        "decision_id": DECISION_ID,
        "subject": "alice",
        "client": "web-app",
        "issuer": "https://kc.example",
        "token_id": "jti-1",
        "route": "infer",
        "model": "sentiment",
        "reason": "forbidden",
        "code": "role_missing",
        "policy": "0123456789abcdef",
    }


def test_settings_cannot_break_out_of_a_header_either() -> None:
    responder = Responder('a"\r\nb', Responses("urn:\r\n:"), "h")
    message = responder.build(Deny(DECISION_ID, Reason.NO_CREDENTIAL, "c", "d"), request_is_grpc=False)

    assert _headers(message)["www-authenticate"] == 'Bearer realm="a???b"'
    assert json.loads(refusal(message).body)["type"] == "urn:??:no_credential"


@every_reason
@every_caller
def test_without_hints_a_caller_reads_the_title_only(reason: Reason, *, grpc: bool) -> None:
    terse = Responder("triton", Responses(hints=False), "h")
    message = terse.build(Deny(DECISION_ID, reason, "some_code", "the hint", scope="the-role"), request_is_grpc=grpc)
    row, sent = REFUSALS[reason], _headers(message)

    assert "hint" not in refusal(message).body + sent.get("www-authenticate", "")
    assert "the-role" not in sent.get("www-authenticate", "")
    code = row.shown_as[1] if row.shown_as else "some_code"
    assert grpc or (_problem(message)["code"], _problem(message)["detail"]) == (code, row.title)
    assert grpc or _problem(message)["error"] == f"{row.title} (decision {DECISION_ID})"
    assert not grpc or refusal(message).body == f"{code}: {row.title} (decision {DECISION_ID})"
    assert sent.keys() == _headers(_deny(reason, grpc=grpc, scope="s")).keys()


def test_without_its_header_the_decision_id_stands_in_the_body_only() -> None:
    quiet = Responder("triton", Responses(decision_header=False), "h")
    message = quiet.build(Deny(DECISION_ID, Reason.FORBIDDEN, "c", "d"), request_is_grpc=False)

    assert "x-decision-id" not in _headers(message)
    assert _problem(message)["decision_id"] == DECISION_ID
    options = Deny(DECISION_ID, Reason.METHOD_NOT_ALLOWED, "options", "d", scope="GET")
    assert _headers(quiet.build(options, request_is_grpc=False)).keys() == {"allow", "cache-control"}


@every_caller
def test_without_ratelimit_headers_a_caller_is_told_when_to_come_back(*, grpc: bool) -> None:
    quiet = Responder("triton", Responses(ratelimit_headers=False), "h")
    deny = Deny(DECISION_ID, Reason.OVER_LIMIT, "c", "d", quotas=(Quota("user", 10, 60, 0, 7),), retry_after=7)
    sent = _headers(quiet.build(deny, request_is_grpc=grpc))

    assert not {"ratelimit", "ratelimit-policy"} & sent.keys()
    assert sent["retry-after"] == "7"


def test_what_it_was_decided_without_is_for_the_access_log() -> None:
    deny = Deny(DECISION_ID, Reason.OVER_LIMIT, "c", "d", degraded="redis")
    message = RESPONDER.build(deny, request_is_grpc=False)

    assert metadata(message)["degraded"] == "redis"
    assert "redis" not in str(refusal(message))


def test_equal_refusals_differ_only_in_their_id() -> None:
    other = DECISION_ID.replace("c2", "d3")
    first, second = (
        RESPONDER.build(Deny(decision_id, Reason.NO_ROUTE, "no_route", "nothing here"), request_is_grpc=False)
        for decision_id in (DECISION_ID, other)
    )

    assert first != second
    assert first.replace(DECISION_ID.encode(), other.encode()) == second


@every_caller
def test_a_decision_id_is_a_uuid(*, grpc: bool) -> None:
    with pytest.raises(ValueError, match="UUID"):
        RESPONDER.build(Deny("short", Reason.FORBIDDEN, "c", "d"), request_is_grpc=grpc)
