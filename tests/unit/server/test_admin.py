"""What the admin listener says to anybody, what it says over its socket only, and whom it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import httpx
import pytest

from ext_authz.server.admin import private, public
from ext_authz.server.generations import Generations
from ext_authz.server.sources import Role


class FakePolicies(Generations):
    """Says what the test wants to hear."""

    def __init__(self) -> None:
        self.changed: Collection[Role] | None = [Role.POLICY]
        self.told: dict[Role, dict[str, Any]] = {Role.POLICY: {"hash": "new"}}
        self.reloads = 0

    def status(self) -> dict[Role, dict[str, Any]]:
        return self.told

    def candidate(self) -> dict[str, object]:
        return {"differences": []}

    async def reload(self) -> Collection[Role] | None:
        self.reloads += 1
        return self.changed

    def info(self) -> Counter[tuple[str, str]]:
        return Counter({("policy", "old"): 2})


@pytest.fixture
def policies() -> FakePolicies:
    return FakePolicies()


def client(policies: FakePolicies) -> httpx.AsyncClient:
    """Over the socket."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(private(policies)), base_url="http://tollgate")


def remote(policies: FakePolicies) -> httpx.AsyncClient:
    """Over TCP. Behind a sidecar everybody comes from this machine."""
    application = public(
        lambda: (True, {"live": True}), lambda: (True, {"ready": True}), policies, {"tollgate.example"}
    )
    transport = httpx.ASGITransport(application, client=("127.0.0.6", 40_000))
    return httpx.AsyncClient(transport=transport, base_url="http://10.0.0.7:9001")


async def test_the_policy_is_told_over_the_socket(policies: FakePolicies) -> None:
    async with client(policies) as http:
        assert (await http.get("/policy")).json() == {"policy": {"hash": "new"}}
        assert (await http.get("/policy/candidate")).json() == {"differences": []}
        assert (await http.post("/policy/reload")).json() == {"policy": {"hash": "new", "changed": True}}


@pytest.mark.parametrize("path", ["/policy", "/policy/", "/policy/candidate", "/policy/reload", "/policy/reload/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_and_over_nothing_else(policies: FakePolicies, method: str, path: str) -> None:
    async with remote(policies) as http:
        refusal = await http.request(method, path, headers={"x-forwarded-for": "127.0.0.1"})
        assert (refusal.status_code, policies.reloads) == (404, 0)
        assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/policy", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:9001"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "tollgate.svc.evil.example"},
        {"host": "localhost.evil.example."},
        {"host": "tollgate.example.evil"},
        {"host": "127.0.0.1@evil.example"},
        {"host": "127.0.0.1:9001:9001"},
        {"host": "a b"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://10.0.0.7:9001"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_no_web_page_is_answered(policies: FakePolicies, path: str, headers: dict[str, str]) -> None:
    async with remote(policies) as http:
        refusal = await http.get(path, headers=headers)
    assert (refusal.status_code, refusal.headers["content-type"]) == (403, "application/problem+json")
    assert not refusal.headers.keys() & {"access-control-allow-origin"}


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:9001", "10.0.0.7", "[::1]:9001", "[fd00::7]", "localhost:9001", "tollgate", "tollgate.prod.svc"),
        *("tollgate.prod.svc.cluster.local:9001", "metadata.internal", "TOLLGATE.example", "tollgate.example.:9001"),
    ],
)
async def test_who_scrapes_and_probes_is(policies: FakePolicies, host: str) -> None:
    async with remote(policies) as http:
        answer = await http.get("/livez", headers={"host": host, "sec-fetch-site": "none"})
    assert answer.json() == {"live": True}


async def test_faults_are_a_problem(policies: FakePolicies) -> None:
    policies.told = {Role.POLICY: {"hash": "old", "rejected": ["first", "second"]}, Role.CANDIDATE: {"hash": "new"}}
    policies.changed = [Role.CANDIDATE]
    async with client(policies) as http:
        answer = await http.post("/policy/reload")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["detail"], problem["faults"]) == (422, "first", {"policy": ["first", "second"]})
    assert problem["in_force"]["candidate"] == {"hash": "new", "changed": True}


async def test_not_while_it_starts_or_drains(policies: FakePolicies) -> None:
    policies.changed = None
    async with client(policies) as http:
        answer = await http.post("/policy/reload")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


async def test_reading_changes_nothing(policies: FakePolicies) -> None:
    async with client(policies) as http:
        assert (await http.get("/policy/reload")).status_code == 405
    assert policies.reloads == 0
