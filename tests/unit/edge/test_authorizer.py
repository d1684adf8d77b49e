"""Bytes in, bytes out, and never an exception: an RPC error could fail open in somebody's mesh."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import NoReturn

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from ext_authz import check
from ext_authz.check import Check
from ext_authz.decision import Allow, Decision, Deny, Reason, Request
from ext_authz.edge.authorizer import Authorizer, count_from_zero
from ext_authz.edge.measurements import Measurements
from ext_authz.edge.response import Responder
from ext_authz.errors import Overloaded
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.ledger.event import decode
from ext_authz.phases.context import CheckContext
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock
from tests.requests import check_request, grpc_check_request
from tests.unit.check.scenarios import POLICY, USER, ScriptedSettlement, world

OK = SettleResult(Outcome.OK, -1, (9, 99), (60_000, 60_000))
RESPONDER = Responder(POLICY.realm, POLICY.responses, POLICY.hash)
MEASUREMENTS = Measurements()


def authorizer(*, log_allowed: bool = False, answer: SettleResult = OK) -> tuple[Authorizer, ScriptedSettlement]:
    here = world(answer, check)
    checker = here.decide.__self__  # type: ignore[attr-defined]
    edge = Authorizer(checker, RESPONDER, log_allowed=log_allowed, measurements=MEASUREMENTS)
    return edge, here.settlement


def good_message() -> bytes:
    return check_request(token=tokens.mint(now=FakeClock().now()))


def read(answer: bytes) -> CheckResponse:
    assert answer, "an empty CheckResponse means allow"
    return CheckResponse.FromString(answer)


def counted(route: str, reason: str) -> float:
    MEASUREMENTS.publish(POLICY.models)
    return REGISTRY.get_sample_value("tollgate_checks_total", {"route": route, "reason": reason}) or 0.0


async def test_a_good_call_is_allowed_and_counted() -> None:
    before = counted("infer", "allowed")
    edge, _ = authorizer()
    answer = read(await edge.check(good_message()))
    assert answer.status.code == 0
    assert {header.header.key: header.header.value for header in answer.ok_response.headers}[
        "x-user-id"
    ] == tokens.ALICE
    assert counted("infer", "allowed") == before + 1


async def test_a_grpc_caller_is_told_in_plain_words_that_the_request_is_no_text() -> None:
    edge, _ = authorizer()
    unreadable = grpc_check_request(models=["sentiment"]).replace(b"sentiment", b"sentimen\xff")
    refusal = read(await edge.check(unreadable)).denied_response
    assert ("grpc-status", "3") in [(one.header.key, one.header.value) for one in refusal.headers]
    assert refusal.body.startswith("malformed_check: the authorization request is malformed (decision ")
    assert (
        "{" in read(await edge.check(unreadable.replace(b"application/grpc", b"application/json"))).denied_response.body
    )


@pytest.mark.parametrize("message", [b"\xff\xff", b"", b"\x0a\x02\x08\x01", bytes(200)])
async def test_what_is_no_request_is_refused_and_written_down(message: bytes) -> None:
    edge, settlement = authorizer()
    answer = read(await edge.check(message))
    assert (answer.status.code, answer.denied_response.status.code) == (3, 400)
    assert [event.reason for event in settlement.recorded] == ["bad_request"]


async def test_a_bug_is_a_refusal_without_detail(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Check):
        async def decide(self, request: Request, found: CheckContext | None = None) -> NoReturn:
            raise KeyError(f"secret of {request.path}")

    here = world(OK, check)
    broken = here.decide.__self__  # type: ignore[attr-defined]
    broken.__class__ = Broken
    answer = read(await Authorizer(broken, RESPONDER).check(good_message()))
    assert (answer.status.code, answer.denied_response.status.code) == (13, 500)
    assert "secret" not in answer.denied_response.body
    assert "bug in the request path" in caplog.messages
    assert json.loads(answer.denied_response.body)["decision_id"] == here.settlement.recorded[0].decision_id


class Unbuildable(Responder):
    """Fails to build decisions of these kinds."""

    def __init__(self, *kinds: type[Allow | Deny]) -> None:
        super().__init__(POLICY.realm, POLICY.responses, POLICY.hash)
        self._kinds = kinds

    def build(self, decision: Decision, request_is_grpc: bool) -> bytes:  # noqa: FBT001 - as there
        if isinstance(decision, self._kinds):
            raise TypeError("cannot be built")
        return super().build(decision, request_is_grpc)


async def test_an_answer_that_cannot_be_built_is_a_refusal_and_the_ledger_has_it_under_the_same_id() -> None:
    here = world(OK, check)
    edge = Authorizer(here.decide.__self__, Unbuildable(Allow))  # type: ignore[attr-defined]
    answer = read(await edge.check(good_message()))
    assert (answer.status.code, answer.denied_response.status.code) == (13, 500)
    (event,), (ask,) = here.settlement.recorded, here.settlement.requests
    settled = decode(ask.event)
    assert (event.decision_id, event.model, event.reason) == (settled.decision_id, "sentiment", "internal")
    assert settled.reason == "allowed"


@pytest.mark.parametrize("grpc", [False, True])
async def test_when_no_answer_can_be_built_there_is_still_one(*, grpc: bool) -> None:
    here = world(OK, check)
    before = counted("", "internal")
    edge = Authorizer(here.decide.__self__, Unbuildable(Allow, Deny), measurements=MEASUREMENTS)  # type: ignore[attr-defined]
    answer = read(await edge.check(grpc_check_request(models=["sentiment"]) if grpc else good_message()))
    assert (answer.status.code, answer.denied_response.status.code) == (13, 500)
    sent = {h.header.key: h.header.value for h in answer.denied_response.headers}
    assert sent.pop("cache-control") == "no-store"
    if grpc:
        assert (sent, answer.denied_response.body) == ({"grpc-status": "13"}, "Internal error")
    else:
        assert sent == {"content-type": "application/problem+json"}
        problem = json.loads(answer.denied_response.body)
        assert (problem["status"], problem["error"]) == (500, "Internal error")
    assert counted("", "internal") == before + 1


async def test_an_observer_changes_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def failing(request: Request, decision: Decision) -> None:
        raise RuntimeError("cannot look")

    here = world(OK, check)
    edge = Authorizer(here.decide.__self__, RESPONDER, observer=failing)  # type: ignore[attr-defined]
    assert read(await edge.check(good_message())).status.code == 0
    assert read(await edge.check(check_request())).status.code == 16
    assert caplog.messages.count("bug in the request path") == 2


async def test_a_log_that_fails_changes_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Failing(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("nobody reads it")

    edge, _ = authorizer(log_allowed=True)
    logger, handler = logging.getLogger("ext_authz.edge.authorizer"), Failing()
    logger.addHandler(handler)
    try:
        assert read(await edge.check(good_message())).status.code == 0
        assert read(await edge.check(b"\xff")).status.code == 3
    finally:
        logger.removeHandler(handler)


async def test_a_caller_who_gives_up_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    class Waiting(ScriptedSettlement):
        async def settle(self, ask: SettleRequest) -> NoReturn:
            await asyncio.Event().wait()
            raise AssertionError

    here = world(OK, check)
    checker = here.decide.__self__  # type: ignore[attr-defined]
    checker._settlement = Waiting(OK)
    task = asyncio.create_task(Authorizer(checker, RESPONDER).check(good_message()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not caplog.records


async def test_refusals_are_logged_without_the_credential(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    edge, _ = authorizer()
    token = tokens.mint({"exp": 1}, now=FakeClock().now())
    await edge.check(check_request(token=token))
    (line,) = [record for record in caplog.records if record.message == "refused"]
    assert (line.__dict__["reason"], line.__dict__["code"]) == ("invalid_credential", "token_expired")
    assert token not in str(line.__dict__)


@pytest.mark.parametrize("kind", Kind)
async def test_what_was_revoked_is_for_the_operator_and_the_caller_is_told_the_same_of_all(
    caplog: pytest.LogCaptureFixture, kind: Kind
) -> None:
    caplog.set_level(logging.INFO)
    labels = {"kind": kind.label}
    before = REGISTRY.get_sample_value("tollgate_revoked_checks_total", labels) or 0.0
    edge, _ = authorizer(answer=SettleResult(Outcome.REVOKED, revoked_by=kind))
    answer = read(await edge.check(good_message()))

    (line,) = [record for record in caplog.records if record.message == "refused"]
    assert (line.__dict__["code"], line.__dict__["revoked_by"]) == ("revoked", kind.label)
    assert REGISTRY.get_sample_value("tollgate_revoked_checks_total", labels) == before + 1
    body = json.loads(answer.denied_response.body)
    assert (answer.denied_response.status.code, body["code"], "revoked_by" in body) == (
        401,
        "invalid_token",
        False,
    )
    assert body["detail"] == "the token is not accepted"


@pytest.mark.parametrize("log_allowed", [True, False])
async def test_allowed_calls_are_logged_when_asked_for(caplog: pytest.LogCaptureFixture, log_allowed: bool) -> None:  # noqa: FBT001 - a parameter of the table
    caplog.set_level(logging.INFO)
    edge, _ = authorizer(log_allowed=log_allowed)
    await edge.check(good_message())
    assert ("allowed" in caplog.messages) is log_allowed


@pytest.mark.parametrize(("model", "event"), [("sentiment", "allowed"), ("cancer", "refused")])
async def test_a_log_line_names_caller_route_and_model(
    caplog: pytest.LogCaptureFixture, model: str, event: str
) -> None:
    caplog.set_level(logging.INFO)
    edge, _ = authorizer(log_allowed=True)
    token = tokens.mint(now=FakeClock().now())
    answer = read(await edge.check(check_request(path=f"/v2/models/{model}/infer", token=token)))
    (line,) = [record for record in caplog.records if record.message == event]
    found = {name: line.__dict__[name] for name in ("decision_id", "subject", "client", "route", "model")}
    assert found == {name: answer.dynamic_metadata.fields[name].string_value for name in found}
    assert (found["subject"], found["model"], found["route"]) == (tokens.ALICE, model, "infer")


async def test_an_observer_gets_every_answer(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, str]] = []
    here = world(OK, check)
    checker = here.decide.__self__  # type: ignore[attr-defined]
    edge = Authorizer(
        checker, RESPONDER, observer=lambda request, decision: seen.append((request.path, decision.decision_id))
    )
    answer = read(await edge.check(good_message()))
    await edge.check(b"\xff\xff")
    (observed,) = seen
    assert observed == ("/v2/models/sentiment/infer", answer.dynamic_metadata.fields["decision_id"].string_value)
    assert "bug in the request path" not in caplog.messages, "an unreadable message reaches no observer"


@pytest.mark.parametrize("settled", [False, True])
async def test_a_check_that_came_too_late_is_written_down_when_redis_may_hold_something_else(*, settled: bool) -> None:
    here = world(Overloaded("too late", settled=settled), check)
    answer = read(await Authorizer(here.decide.__self__, RESPONDER).check(good_message()))  # type: ignore[attr-defined]
    assert (answer.status.code, answer.error_response.status.code) == (14, 503)
    assert "retry-after" in {option.header.key for option in answer.error_response.headers}
    assert answer.dynamic_metadata.fields["code"].string_value == "overloaded"
    assert [event.code for event in here.settlement.recorded] == ["overloaded"] * settled


def test_series_of_a_policy_are_there_before_its_first_check() -> None:
    counted = replace(USER, name="counted-only", dry_run=True)
    route = replace(POLICY.routes[0], name="never-called")
    count_from_zero(replace(POLICY, routes=(route,), limits={"counted-only": counted, "user": USER}))
    value = REGISTRY.get_sample_value
    assert value("tollgate_limit_dry_run_checks_total", {"limit": "counted-only"}) == 0
    assert value("tollgate_limit_dry_run_checks_total", {"limit": "user"}) is None
    for reason in Reason:
        expected = None if reason in {Reason.NO_ROUTE, Reason.METHOD_NOT_ALLOWED} else 0
        assert value("tollgate_checks_total", {"route": "never-called", "reason": reason}) == expected
        known = value("tollgate_checks_total", {"route": "", "reason": reason}) is not None
        assert known == (reason is not Reason.ALLOWED)
