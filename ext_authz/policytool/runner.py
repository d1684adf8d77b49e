"""Runs policy tests, each in a simulator of its own, and reports the outcomes: as lines, and as JUnit XML for CI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from time import perf_counter
from xml.etree import ElementTree as ET

from msgspec import Struct

from ext_authz.decision import Allow, Quota, Reason
from ext_authz.errors import ConfigError, escaped
from ext_authz.policy.documents.base import seconds
from ext_authz.policy.faults import Position
from ext_authz.policy.model import Policy
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.cases import (
    NOBODY,
    CaseDocument,
    CaseFile,
    ExpectDocument,
    GivenDocument,
    LimitExpectation,
    RequestDocument,
    StepDocument,
)
from ext_authz.policytool.explain import explanation
from ext_authz.policytool.explain import lines as explanation_lines
from ext_authz.policytool.simulator import SimulatedCheck, Simulator
from ext_authz.revocation.entry import Kind

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
"""When it is, by default."""
_UP = "up"
_NOT_THERE = "not there"


class Difference(Struct, frozen=True):
    """One thing that came out otherwise."""

    what: str
    expected: str
    seen: str


class Failure(Struct, frozen=True):
    """A step that did not come out as expected."""

    step: int
    """0 is the request of the test itself."""
    differences: tuple[Difference, ...]
    check: SimulatedCheck


class Outcome(Struct, frozen=True):
    """What became of one test; it passed where nothing failed."""

    suite: str
    name: str
    place: Position
    took: float
    """Seconds."""
    failure: Failure | None = None
    error: str = ""
    """Why it could not be run at all."""

    @property
    def passed(self) -> bool:
        return self.failure is None and not self.error


async def run(file: CaseFile, policy: Policy) -> list[Outcome]:
    """All tests of one file."""
    return [await _outcome(file, index, case, policy) for index, case in enumerate(file.document.tests)]


async def _outcome(file: CaseFile, index: int, case: CaseDocument, policy: Policy) -> Outcome:
    started, failure, error = perf_counter(), None, ""
    try:
        failure = await _failure(case, file.document.identities, policy)
    except ConfigError as wrong:
        error = str(wrong)
    took = perf_counter() - started
    return Outcome(str(file.path), case.name, file.place(index), took, failure, error)


async def _failure(case: CaseDocument, identities: Mapping[str, IdentityDocument], policy: Policy) -> Failure | None:
    """The first step that comes out otherwise. Each takes over the caller and the request from the one before."""
    identity, request = _identity(case.identity, identities), case.request
    simulator = Simulator(policy, _beginning(case.given, identity))
    for number, step in enumerate(case.steps()):
        if step.identity is not None:
            identity = _identity(step.identity, identities)
        request = step.request or request
        check = await _checked(simulator, step, identity, request)
        if found := tuple(_differences(step.expect, check)):
            return Failure(number, found, check)
    return None


def _identity(identity: str | IdentityDocument, identities: Mapping[str, IdentityDocument]) -> IdentityDocument | None:
    """None: no credential."""
    if isinstance(identity, IdentityDocument):
        return identity
    return None if identity == NOBODY else identities[identity]


def _beginning(given: GivenDocument, identity: IdentityDocument | None) -> float:
    """When a test begins."""
    if given.time is not None:
        return given.time.timestamp()
    issued = ((identity.token if identity else None) or {}).get("iat")
    return float(issued) if isinstance(issued, int | float) else _NOON


async def _checked(
    simulator: Simulator, step: StepDocument, identity: IdentityDocument | None, document: RequestDocument
) -> SimulatedCheck:
    simulator.clock.travel(seconds(step.after))
    _prepare(simulator, step.given)
    authorization = None if identity is None else _presented(simulator, identity)
    request = document.request(authorization)
    for _ in range(step.repeat - 1):
        await simulator.decide(request)
    check = await simulator.check(request)
    if simulator.counters.used:
        names = ", ".join(simulator.counters.used)
        raise ConfigError(f"given.used: this request does not get as far as the limit {names}, or does not count in it")
    return check


def _prepare(simulator: Simulator, given: GivenDocument) -> None:
    counters = simulator.counters
    counters.used |= given.used
    counters.revoked |= {Kind[name.upper()] for name in given.revoked}
    for dependency, state in (("redis", given.redis), ("postgres", given.postgres)):
        if state is not None:
            counters.switch(dependency, up=state == _UP)
    if given.jwks:
        simulator.callers.lost_at = None if given.jwks == _UP else simulator.clock.monotonic()


def _presented(simulator: Simulator, identity: IdentityDocument) -> str:
    return simulator.callers.present(given_claims(identity, simulator.policy.issuers, simulator.clock.now()))


def _differences(expect: ExpectDocument, check: SimulatedCheck) -> Iterator[Difference]:
    """All of them, in the order in which a test states them; only what it states is compared."""
    seen = _seen(check)
    for name in ("decision", "reason", "code", "route", "model", "variant", "status", "grpc", "retry_after"):
        expected = getattr(expect, name)
        if expected is not None and expected != seen[name]:
            yield Difference(name, str(expected), str(seen[name]))
    quotas = {quota.name: quota for quota in check.decision.quotas}
    for name, limit in expect.limits.items():
        yield from _of_limit(f"limits.{name}", limit, quotas.get(name))
    for name, value in expect.headers.items():
        found = check.response.headers.get(name)
        if found != value:
            yield Difference(f"headers.{name}", value or _NOT_THERE, _NOT_THERE if found is None else found)


def _seen(check: SimulatedCheck) -> dict[str, object]:
    decision, denied = check.decision, check.denied
    return {
        "decision": "deny" if denied else "allow",
        "reason": denied.reason if denied else Reason.ALLOWED,
        "code": denied.code if denied else "",
        "route": decision.route,
        "model": decision.model,
        "variant": decision.variant if isinstance(decision, Allow) else "",
        "status": check.response.status,
        "grpc": check.response.grpc,
        "retry_after": denied.retry_after if denied else 0,
    }


def _of_limit(what: str, expected: LimitExpectation, quota: Quota | None) -> Iterator[Difference]:
    if quota is None:
        yield Difference(what, "counted", "not counted")
        return
    for name in expected.model_fields_set:
        value, seen = getattr(expected, name), getattr(quota, name)
        if value is not None and value != seen:
            yield Difference(f"{what}.{name}", str(value), str(seen))


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Each failure with what was expected and seen, and the explanation of its request; then the sum."""
    for outcome in outcomes:
        if not outcome.passed:
            yield f"FAIL {outcome.name}"
            yield f"     {outcome.place}"
            yield from (f"     {line}".rstrip() for line in _causes(outcome))
            yield ""
    failed = sum(not outcome.passed for outcome in outcomes)
    took = sum(outcome.took for outcome in outcomes)
    yield f"{len(outcomes) - failed} passed, {failed} failed in {took:.2f} s"


def _causes(outcome: Outcome) -> Iterator[str]:
    failure = outcome.failure
    if failure is None:
        yield outcome.error
        return
    if failure.step:
        yield f"at step {failure.step} of then:"
    width = max(len(found.what) for found in failure.differences)
    for found in failure.differences:
        yield f"{found.what:{width}}  expected  {found.expected}"
        yield f"{'':{width}}  seen      {found.seen}"
    yield ""
    yield from explanation_lines(explanation(failure.check))


def write_junit(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One suite per file of tests, as Jenkins, GitLab and GitHub read it."""
    root = ET.Element("testsuites", _sums(outcomes))
    for name, found in groupby(outcomes, key=lambda outcome: outcome.suite):
        suite = list(found)
        element = ET.SubElement(root, "testsuite", {"name": name, **_sums(suite)})
        element.extend(map(_testcase, suite))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _sums(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {
        "tests": str(len(outcomes)),
        "failures": str(sum(outcome.failure is not None for outcome in outcomes)),
        "errors": str(sum(outcome.error != "" for outcome in outcomes)),
        "time": f"{sum(outcome.took for outcome in outcomes):.3f}",
    }


def _testcase(outcome: Outcome) -> ET.Element:
    place = {"file": str(outcome.place.file), "line": str(outcome.place.line)}
    name, took = escaped(outcome.name), f"{outcome.took:.3f}"
    element = ET.Element("testcase", {"classname": outcome.suite, "name": name, "time": took, **place})
    if not outcome.passed:
        causes = [escaped(cause) for cause in _causes(outcome)]
        kind = "error" if outcome.error else "failure"
        ET.SubElement(element, kind, {"message": " ".join(causes[0].split())}).text = "\n".join(causes)
    return element
