"""Runs policy tests through the real check, each with a door, counters and a clock of its own."""

from __future__ import annotations

from time import perf_counter

from msgspec import Struct

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import Position
from ext_authz.policy.model import Policy
from ext_authz.policytool.case_files import CaseFile
from ext_authz.policytool.cases import CaseDocument, GivenDocument, IdentityDocument
from ext_authz.policytool.claims import given_claims
from ext_authz.policytool.door import Asked, Door
from ext_authz.policytool.expectation import Difference, differences
from ext_authz.policytool.requests import as_seen
from ext_authz.policytool.steps import Step, beginning, steps
from ext_authz.revocation.entry import Kind

_DOWN = "down"


class Failure(Struct, frozen=True):
    """A step that did not come out as expected."""

    step: int
    """0 is the request of the test itself."""
    differences: tuple[Difference, ...]
    asked: Asked


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
        failure = await _failure(list(steps(case, file.document.identities)), policy)
    except ConfigError as wrong:
        error = str(wrong)
    took = perf_counter() - started
    return Outcome(str(file.path), case.name, file.place(index), took, failure, error)


async def _failure(planned: list[Step], policy: Policy) -> Failure | None:
    """The first step that comes out otherwise."""
    door = Door(policy, beginning(planned[0]))
    for number, step in enumerate(planned):
        asked = await _asked(door, step)
        if found := tuple(differences(step.expect, asked)):
            return Failure(number, found, asked)
    return None


async def _asked(door: Door, step: Step) -> Asked:
    door.clock.travel(step.after)
    _prepare(door, step.given)
    authorization = None if step.identity is None else _presented(door, step.identity)
    request = as_seen(step.request, authorization)
    for _ in range(step.repeat - 1):
        await door.decide(request)
    asked = await door.ask(request)
    if door.counters.used:
        names = ", ".join(door.counters.used)
        raise ConfigError(f"given.used: this request does not get as far as the limit {names}, or does not count in it")
    return asked


def _prepare(door: Door, given: GivenDocument) -> None:
    door.counters.used |= given.used
    door.counters.revoked |= {Kind[name.upper()] for name in given.revoked}
    for dependency, state in (("redis", given.redis), ("postgres", given.postgres)):
        if state == _DOWN:
            door.counters.lose(dependency)
        elif state is not None:
            door.counters.regain(dependency)
    if given.jwks:
        door.callers.lost_at = door.clock.monotonic() if given.jwks == _DOWN else None


def _presented(door: Door, identity: IdentityDocument) -> str:
    return door.callers.present(given_claims(identity, door.policy.issuers, door.clock.now()))
