"""What the admin listener says about the policy, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpx
import pytest

from ext_authz.reload.rollout import Holding, Order, Outcome, Role
from ext_authz.server.admin import application


class FakeState:
    def live(self) -> bool:
        return True

    def readiness(self) -> tuple[bool, dict[str, object]]:
        return True, {"ready": True}


class FakePolicies:
    """Says what the test wants to hear."""

    def __init__(self) -> None:
        self.outcomes: Mapping[Role, Outcome] | None = {Role.POLICY: Outcome("new", changed=True)}
        self.reloads = 0

    def status(self) -> dict[str, object]:
        return {"policy": {"hash": "old"}}

    async def shadow(self) -> dict[str, object]:
        return {"differences": []}

    async def reload(self) -> Mapping[Role, Outcome] | None:
        self.reloads += 1
        return self.outcomes

    def info(self) -> Mapping[tuple[str, str], int]:
        return {("policy", "old"): 2}

    def order(self, order: Order) -> None:
        raise AssertionError

    def holding(self, role: Role) -> Sequence[Holding]:
        raise AssertionError


@pytest.fixture
def policies() -> FakePolicies:
    return FakePolicies()


def client(policies: FakePolicies, caller: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(FakeState(), policies), client=(caller, 40_000))
    return httpx.AsyncClient(transport=transport, base_url="http://admin")


@pytest.mark.parametrize("caller", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_the_policy_is_told_on_this_machine(policies: FakePolicies, caller: str) -> None:
    async with client(policies, caller) as http:
        assert (await http.get("/policy")).json() == {"policy": {"hash": "old"}}
        assert (await http.get("/policy/shadow")).json() == {"differences": []}
        assert (await http.post("/policy/reload")).json() == {"policy": {"hash": "new", "changed": True}}


@pytest.mark.parametrize("caller", ["10.0.0.7", "2001:db8::1", "::ffff:10.0.0.7"])
async def test_and_nowhere_else(policies: FakePolicies, caller: str) -> None:
    async with client(policies, caller) as http:
        forwarded = {"x-forwarded-for": "127.0.0.1"}
        refusals = [
            await http.get("/policy", headers=forwarded),
            await http.get("/policy/shadow", headers=forwarded),
            await http.post("/policy/reload", headers=forwarded),
        ]
        assert [refusal.status_code for refusal in refusals] == [403] * 3
        assert policies.reloads == 0
        assert (await http.get("/readyz")).status_code == 200


async def test_faults_are_a_problem(policies: FakePolicies) -> None:
    policies.outcomes = {
        Role.POLICY: Outcome("old", faults=("first", "second")),
        Role.SHADOW: Outcome("new", changed=True),
    }
    async with client(policies) as http:
        answer = await http.post("/policy/reload")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["detail"], problem["faults"]) == (422, "first", {"policy": ["first", "second"]})
    assert problem["in_force"]["shadow"] == {"hash": "new", "changed": True}


async def test_not_while_it_starts_or_drains(policies: FakePolicies) -> None:
    policies.outcomes = None
    async with client(policies) as http:
        answer = await http.post("/policy/reload")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


async def test_reading_changes_nothing(policies: FakePolicies) -> None:
    async with client(policies) as http:
        assert (await http.get("/policy/reload")).status_code == 405
    assert policies.reloads == 0
