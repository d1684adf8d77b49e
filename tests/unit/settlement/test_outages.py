"""What is away is told once when it begins, when a grace ends and when it is over, and can be read all the time."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest
from msgspec import Struct
from msgspec.structs import replace
from prometheus_client import REGISTRY

from ext_authz.errors import Unavailable
from ext_authz.policy.model import Failure, OnFailure, Policy, Route
from ext_authz.settlement import outages
from ext_authz.settlement.outages import Outages, Probe
from tests.fakes import FakeClock
from tests.unit.check.scenarios import POLICY

DENY, LOCAL, ALLOW = OnFailure.DENY, OnFailure.LOCAL, OnFailure.ALLOW


def policy(*failures: Failure, public: bool = False) -> Policy:
    """A route for each."""
    routes = tuple(Route(name=f"r{n}", failure=failure, public=public) for n, failure in enumerate(failures))
    return replace(POLICY, routes=routes)


class Watch(Struct):
    """What a worker sees, and a clock."""

    clock: FakeClock
    lost: dict[str, float | None]

    def outages(self, policy: Policy) -> Outages:
        return Outages(self.clock, policy, lambda: self.lost)

    def lose(self, dependency: str) -> None:
        self.lost[dependency] = self.clock.monotonic()


@pytest.fixture
def watch() -> Watch:
    clock, lost = FakeClock(), dict[str, float | None]({"redis": None, "jwks:kc": None})
    return Watch(clock, lost)


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def modes(dependency: str) -> set[str]:
    return {mode.value for mode in OnFailure if metric("tollgate_degraded", dependency=dependency, mode=mode.value)}


def test_while_all_is_up_nothing_is_told(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    assert watch.outages(policy(Failure(redis=LOCAL))).look() == {}
    assert not caplog.records


def test_one_line_each_at_the_start_when_the_grace_is_over_and_at_the_end(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    here = watch.outages(policy(Failure(redis=LOCAL, grace=60)))
    watch.lose("redis")
    with caplog.at_level(logging.INFO):
        for _ in range(70):
            here.look()
            watch.clock.advance(1)
        watch.lost["redis"] = None
        for _ in range(3):
            here.look()
    assert [record.message for record in caplog.records] == [
        "degraded: a dependency does not answer",
        "degraded: a grace is over",
        "degraded: the dependency answers again",
    ]
    assert {record.__dict__["dependency"] for record in caplog.records} == {"redis"}


def test_the_seconds_that_are_left_can_be_read(watch: Watch) -> None:
    here = watch.outages(policy(Failure(redis=LOCAL, grace=60), Failure(redis=LOCAL, grace=300), Failure()))
    watch.lose("redis")
    watch.clock.advance(10)
    assert here.look() == {"redis": "deny, local, 50 s left, local, 290 s left"}
    assert (modes("redis"), metric("tollgate_degraded_remaining_seconds", dependency="redis")) == (
        {"deny", "local"},
        290,
    )
    watch.clock.advance(60)
    assert here.look() == {"redis": "deny, local, 230 s left"}
    watch.clock.advance(600)
    assert here.look() == {"redis": "deny"}
    assert (modes("redis"), metric("tollgate_degraded_remaining_seconds", dependency="redis")) == ({"deny"}, 0)
    watch.lost["redis"] = None
    assert here.look() == {}
    assert modes("redis") == set()


def test_allow_has_no_end(watch: Watch) -> None:
    watch.lose("redis")
    watch.clock.advance(1_000_000)
    assert watch.outages(policy(Failure(redis=ALLOW))).look() == {"redis": "allow"}


def test_every_issuer_has_its_own_clock(watch: Watch) -> None:
    here = watch.outages(policy(Failure(jwks=LOCAL, grace=60)))
    watch.lose("jwks:kc")
    watch.clock.advance(20)
    watch.lost["jwks:new"] = -math.inf
    assert here.look() == {"jwks:kc": "local, 40 s left", "jwks:new": "deny"}


def test_without_postgres_if_some_route_allows_it(watch: Watch) -> None:
    assert not watch.outages(policy(Failure())).without_postgres
    assert watch.outages(policy(Failure(), Failure(postgres=LOCAL))).without_postgres
    assert not watch.outages(policy(Failure(postgres=ALLOW), public=True)).without_postgres, "no revocations needed"


async def test_a_probe_remembers_why_and_outlives_whatever_goes_wrong(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "PROBE", 0.001)
    causes = ["", "no tables", "no tables", "a bug", "", "gone"]
    seen: list[str] = []

    async def ask() -> None:
        seen.append(probe.cause)
        match causes[min(len(seen), len(causes)) - 1]:
            case "a bug":
                raise KeyError("a bug")
            case "":
                return
            case cause:
                raise Unavailable("postgres", cause)

    probe = Probe("postgres", ask)
    assert probe.cause == "not asked yet"
    probe.start()
    async with asyncio.timeout(10):
        while len(seen) < 7:  # noqa: ASYNC110 - the probe has no event for this
            await asyncio.sleep(0.001)
    await probe.stop()
    assert seen[:7] == ["not asked yet", "", "no tables", "no tables", "KeyError: 'a bug'", "", "gone"]
    said = [getattr(record, "error", "") for record in caplog.records if record.message == "postgres cannot be used"]
    assert said == ["no tables", "KeyError: 'a bug'", "gone"]
