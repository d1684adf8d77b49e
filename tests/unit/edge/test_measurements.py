"""What is measured of a check: phases of a few, outcomes by model, the limit that refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from prometheus_client import REGISTRY

from ext_authz import check
from ext_authz.decision import ANONYMOUS, Allow, Quota
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.measurements import TIMED_ONE_IN, Measurements
from ext_authz.edge.response import Responder
from ext_authz.observability.metrics import PHASES
from ext_authz.observability.tracing import Parent
from ext_authz.phases.context import CheckContext, TimedContext
from ext_authz.policy.model import Algorithm, Limit
from ext_authz.settlement.model import Outcome, SettleResult
from tests import tokens
from tests.fakes import FakeClock
from tests.requests import check_request
from tests.unit.check.scenarios import POLICY, world

OK = SettleResult(Outcome.OK, -1, (9, 99), (60_000, 60_000))
LIMITED = SettleResult(Outcome.LIMITED, 0, (0, 99), (60_000, 60_000), retry_after_ms=1000)
PARENT = Parent(0xABC, 1, "")


class FakeTracer:
    def __init__(self, parent: Parent | None) -> None:
        self._parent = parent
        self.spans: list[tuple[Parent, list[str], Mapping[str, str]]] = []

    def parent(self, _headers: Mapping[str, str]) -> Parent | None:
        return self._parent

    def export(self, parent: Parent, marks: Sequence[tuple[str, float]], attributes: Mapping[str, str]) -> None:
        assert [at for _, at in marks] == sorted(at for _, at in marks)
        self.spans.append((parent, [phase for phase, _ in marks], attributes))

    def stop(self) -> None: ...


def edge(measurements: Measurements, answer: SettleResult = OK) -> Authorizer:
    here = world(answer, check)
    responder = Responder(POLICY.realm, POLICY.responses, POLICY.hash)
    return Authorizer(here.decide.__self__, responder, log_allowed=True, measurements=measurements)  # type: ignore[attr-defined]


def good() -> bytes:
    return check_request(token=tokens.mint(now=FakeClock().now()))


def seen(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def timed(phase: str) -> float:
    return seen("tollgate_check_phase_duration_seconds_count", phase=phase)


async def test_one_check_of_many_is_timed_in_all_its_phases() -> None:
    before, authorizer = {phase: timed(phase) for phase in PHASES}, edge(Measurements())
    for _ in range(TIMED_ONE_IN):
        await authorizer.check(good())
    assert {phase: timed(phase) - before[phase] for phase in PHASES} == dict.fromkeys(PHASES, 1.0)


async def test_a_traced_check_is_exported_with_its_phases_and_nothing_about_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracer = FakeTracer(PARENT)
    with caplog.at_level("INFO"):
        await edge(Measurements(tracer)).check(good())
    [(parent, phases, attributes)] = tracer.spans
    assert (parent, phases) == (PARENT, [*PHASES, ""])
    assert {name.removeprefix("tollgate.") for name in attributes} == {"decision_id", "route", "reason", "model"}
    assert tokens.ALICE not in attributes.values()
    assert [record.trace_id for record in caplog.records if record.message == "allowed"] == [f"{0xABC:032x}"]  # type: ignore[attr-defined]


async def test_a_check_that_no_caller_samples_is_not_exported() -> None:
    tracer = FakeTracer(None)
    authorizer = edge(Measurements(tracer))
    for _ in range(TIMED_ONE_IN):
        await authorizer.check(good())
    assert tracer.spans == []


async def test_a_refusal_ends_with_the_phase_that_refuses() -> None:
    tracer = FakeTracer(PARENT)
    await edge(Measurements(tracer)).check(check_request(token=""))
    [(_, phases, attributes)] = tracer.spans
    assert phases == ["read", "route", "identity", "response", ""]
    assert attributes["tollgate.reason"] == "invalid_request"


async def test_outcomes_are_counted_by_model_and_the_limit_that_refuses() -> None:
    measurements = Measurements()
    limit = next(route for route in POLICY.routes if route.limits).limits[0].name
    labels = {"variant": "", "plan": "", "model": "sentiment"}
    before = {name: seen("tollgate_model_checks_total", outcome=name, **labels) for name in ("allowed", "limited")}
    refused = seen("tollgate_limit_refused_checks_total", limit=limit)
    for answer in (OK, LIMITED):
        await edge(measurements, answer).check(good())
    measurements.publish(POLICY.models)
    measurements.publish(POLICY.models)
    after = {name: seen("tollgate_model_checks_total", outcome=name, **labels) for name in before}
    assert {name: after[name] - before[name] for name in before} == {"allowed": 1.0, "limited": 1.0}
    assert seen("tollgate_limit_refused_checks_total", limit=limit) == refused + 1


def test_the_used_share_of_a_bucket_is_of_what_it_holds() -> None:
    limit = Limit("bucket", ("user",), 600, 60, Algorithm.GCRA, burst=4)
    context = TimedContext(limits=(limit,), marks=[("read", 0.0)])
    allowed = Allow("0" * 36, ANONYMOUS, "infer", quotas=(Quota("bucket", 600, 60, 3, 1),))
    Measurements().answered(context, allowed, 0.001)
    assert seen("tollgate_limit_used_ratio_sum", limit="bucket") == 0.25


def test_durations_are_those_that_were_measured() -> None:
    def found() -> list[float]:
        labels = ("0.005", "0.01", "1.0", "+Inf")
        counts = [seen("tollgate_check_duration_seconds_bucket", le=bound) for bound in labels]
        return [*counts, seen("tollgate_check_duration_seconds_sum")]

    measurements, before = Measurements(), found()
    for seconds in (0.01, 0.010001, 2.0):
        measurements.answered(CheckContext(), None, seconds)
    measurements.publish(POLICY.models)
    after = [now - then for now, then in zip(found(), before, strict=True)]
    assert after == pytest.approx([0, 1, 2, 3, 2.020001])


async def test_a_model_that_the_policy_does_not_name_gets_no_series_of_its_own() -> None:
    measurements = Measurements()
    path = "/v2/models/no-such-model/infer"
    await edge(measurements).check(check_request(path=path, token=tokens.mint(now=FakeClock().now())))
    measurements.publish(POLICY.models)
    assert seen("tollgate_model_checks_total", model="", variant="", plan="", outcome="refused") >= 1
    assert seen("tollgate_model_checks_total", model="no-such-model", variant="", plan="", outcome="refused") == 0
