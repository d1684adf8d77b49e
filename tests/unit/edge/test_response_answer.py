"""Answer -> CheckResponse: to Envoy a refusal, to the caller a response with status 200."""

from __future__ import annotations

import json

from ext_authz.decision import Answer, Principal, Quota
from ext_authz.edge.response import Responder
from ext_authz.policy.model import Responses
from tests.unit.edge.answers import DECISION_ID, every_header, headers, metadata, read

ALICE = Principal("https://id.example", "alice", "web")
ANSWER = Answer(DECISION_ID, ALICE, ".tollgate/quota", [{"name": 'é"\x7f\n'}], (Quota("user", 10, 60, 7, 41),))


def _built(responses: Responses = Responses()) -> bytes:  # noqa: B008 - frozen
    return Responder("triton", responses, "0123456789abcdef").build(ANSWER, request_is_grpc=False)


def test_envoy_forwards_no_request_that_is_answered() -> None:
    message = read(_built())
    assert message.status.code != 0
    assert message.WhichOneof("http_response") == "denied_response"


def test_the_caller_gets_the_document_as_json() -> None:
    response = read(_built()).denied_response
    assert response.status.code == 200
    assert json.loads(response.body) == ANSWER.document
    assert headers(response.headers) == {
        "x-decision-id": DECISION_ID,
        "cache-control": "no-store",
        "ratelimit-policy": '"user";q=10;w=60',
        "ratelimit": '"user";r=7;t=41',
        "content-type": "application/json",
    }
    assert all(option.HasField("append") and not option.append.value for option in every_header(_built()))


def test_the_policy_decides_which_headers_there_are() -> None:
    message = read(_built(Responses(ratelimit_headers=False, decision_header=False)))
    assert headers(message.denied_response.headers).keys() == {"cache-control", "content-type"}


def test_the_access_log_has_it_as_allowed_and_answered() -> None:
    found = metadata(_built())
    assert (found["reason"], found["code"], found["route"]) == ("allowed", "answered", ".tollgate/quota")
    assert (found["subject"], found["decision_id"]) == ("alice", DECISION_ID)
