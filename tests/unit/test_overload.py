"""Too much to do: driven with made-up servers, turn by turn, by a clock that is moved."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from msgspec import Struct

from ext_authz import check as check_module
from ext_authz.authorizer import Authorizer
from ext_authz.check import Check
from ext_authz.errors import Overloaded
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.overload import IDLE, Overload, Turns
from ext_authz.response import Responder
from ext_authz.settlement.model import Answer, Outcome
from tests import tokens
from tests.requests import check_request, grpc_check_request
from tests.unit.check.scenarios import POLICY, world

TIMEOUT = 0.25
TICK = 0.005
TURNS = 6
"""That a check takes."""
CHECK, REFUSAL = 90e-6, 25e-6
CAPACITY = 1 / CHECK


class Seen(Struct):
    at: float
    took: float
    refused: bool


class Server:
    """One processor, one loop: what has come is done in the next turn, a sixth of each check at a time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.seen: list[Seen] = []
        self._turns = Turns(TIMEOUT)
        self._stages: deque[list[float]] = deque([[] for _ in range(TURNS)])
        self._owed = self._come = 0.0
        self._ticked_at = self.now
        self._due_at = self.now + TICK

    def run(self, rate: float, seconds: float, stop: float = 0.0) -> list[Seen]:
        """Calls at a rate; first the process is stopped for so long, and they come all the same."""
        before, until = len(self.seen), self.now + seconds
        length = stop
        while self.now < until:
            self._turn(rate, length)
            length = max(0.0005, self._work())
        return self.seen[before:]

    def _turn(self, rate: float, length: float) -> None:
        self._come += rate * length
        number, self._come = int(self._come), self._come % 1
        self._stages.appendleft([self.now + length * each / number for each in range(number)])
        self.now += length
        if self.now >= self._due_at:
            self._turns.look(self.now, self.now - self._due_at, self.now - self._ticked_at)
            self._ticked_at, self._due_at = self.now, self.now + TICK

    def _work(self) -> float:
        """Seconds until all that is there has been brought one stage further."""
        self.seen += [Seen(at, self.now - at, refused=False) for at in self._stages.pop()]
        refused, self._stages[0] = self._parted(self._stages[0])
        self.seen += [Seen(at, self.now - at, refused=True) for at in refused]
        return REFUSAL * len(refused) + CHECK / TURNS * sum(map(len, self._stages))

    def _parted(self, come: list[float]) -> tuple[list[float], list[float]]:
        refused: list[float] = []
        taken: list[float] = []
        for at in come:
            self._owed += self._turns.refused_part
            (refused if self._owed >= 1 else taken).append(at)
            self._owed %= 1
        return refused, taken


def in_time(seen: list[Seen]) -> list[Seen]:
    return [each for each in seen if not each.refused and each.took < TIMEOUT]


def p99(seen: list[Seen]) -> float:
    took = sorted(each.took for each in seen if not each.refused)
    return took[int(len(took) * 0.99)]


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_what_can_be_done_is_not_refused(load: float) -> None:
    assert not any(each.refused for each in Server().run(load * CAPACITY, 5))


@pytest.mark.parametrize("load", [1.2, 1.5, 2.0])
def test_of_too_much_as_much_is_done_as_the_refusals_leave_time_for(load: float) -> None:
    server = Server()
    server.run(0.5 * CAPACITY, 1)
    seen = server.run(load * CAPACITY, 6)[int(load * CAPACITY) :]
    possible = (1 - load * CAPACITY * REFUSAL) / (CHECK - REFUSAL)
    assert len(in_time(seen)) / 5 > 0.85 * possible
    assert p99(seen) < TIMEOUT


def test_when_the_load_goes_the_refusals_end_within_a_second() -> None:
    server = Server()
    server.run(2 * CAPACITY, 5)
    seen = server.run(0.5 * CAPACITY, 5)
    assert max(each.at for each in seen if each.refused) < seen[0].at + 1


def test_one_long_turn_is_no_overload() -> None:
    server = Server()
    server.run(0.5 * CAPACITY, 1)
    assert not any(each.refused for each in server.run(0.5 * CAPACITY, 2, stop=0.2))


def test_after_a_stop_what_came_meanwhile_is_refused_and_the_new_goes_on_within_a_second() -> None:
    server = Server()
    server.run(0.5 * CAPACITY, 1)
    stopped_at = server.now
    seen = server.run(0.5 * CAPACITY, 5, stop=2)
    refused = [each for each in seen if each.refused]
    assert len(refused) > 0.8 * CAPACITY
    assert max(each.at for each in refused) < stopped_at + 3
    assert p99([each for each in seen if each.at > stopped_at + 3]) < TIMEOUT / 5


class Behind(Overload):
    """Refuses all."""

    def refuses(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("message", "header"),
    [(check_request(token="x"), "retry-after"), (grpc_check_request(token="x"), "grpc-retry-pushback-ms")],
    ids=["REST", "gRPC"],
)
async def test_a_refusal_says_when_to_come_back_and_is_not_written_down(message: bytes, header: str) -> None:
    here = world(Answer(Outcome.OK), check_module)
    check: Check = here.decide.__self__  # type: ignore[attr-defined]
    door = Authorizer(check, Responder(POLICY.realm, POLICY.responses, POLICY.hash), overload=Behind(TIMEOUT))
    answer = CheckResponse.FromString(await door.check(message))
    assert (answer.status.code, answer.error_response.status.code) == (14, 503)
    assert header in {option.header.key for option in answer.error_response.headers}
    assert answer.dynamic_metadata.fields["code"].string_value == "overloaded"
    assert (here.settlement.asks, here.settlement.recorded) == ([], [])


async def test_a_loop_that_keeps_up_refuses_nobody_and_its_timer_rests_when_nobody_comes() -> None:
    overload = Overload(TIMEOUT)
    assert not overload.refuses()
    async with asyncio.timeout(10 * IDLE):
        while overload._timer is not None:  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.05)
    assert not overload.refuses()


@pytest.mark.parametrize("settled", [False, True])
async def test_a_check_that_came_too_late_is_written_down_when_redis_may_hold_something_else(*, settled: bool) -> None:
    here = world(Overloaded("too late", settled=settled), check_module)
    check: Check = here.decide.__self__  # type: ignore[attr-defined]
    door = Authorizer(check, Responder(POLICY.realm, POLICY.responses, POLICY.hash))
    good = check_request(token=tokens.mint(now=here.clock.now()))
    answer = CheckResponse.FromString(await door.check(good))
    assert (answer.status.code, answer.error_response.status.code) == (14, 503)
    assert [event.code for event in here.settlement.recorded] == ["overloaded"] * settled
