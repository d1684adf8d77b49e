"""A candidate looks on: what it would have decided otherwise is told, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tokens
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.services import wait_for


@pytest.fixture
def server(tmp_path: Path, redis_url: str, database_url: str) -> Iterator[Serving]:
    """The candidate lets nobody but admins in."""
    candidate = tmp_path / "candidate.yaml"
    candidate.write_text("to be written")
    with serving(tmp_path, redis_url, database_url, shadow_policy=candidate) as started:
        started.write("candidate.yaml", roles="admin")
        wait_for(lambda: started.status("shadow")["hash"])
        yield started


def differences(server: Serving, number: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = server.get("/policy/shadow").json()["differences"]
        return listed

    wait_for(lambda: len(found()) >= number)
    assert len(found()) == number
    return found()


def test_a_difference_is_counted_listed_and_logged(server: Serving) -> None:
    answer = server.check(token())
    assert answer.status.code == 0
    (difference,) = differences(server, 1)
    assert difference.pop("at") > 0
    assert difference == {
        "decision_id": answer.dynamic_metadata.fields["decision_id"].string_value,
        "subject": tokens.ALICE,
        "client": "web-app",
        "route": "infer",
        "model": "sentiment",
        "reason": "allowed",
        "code": "",
        "policy": server.status()["hash"],
        "candidate_route": "infer",
        "candidate_reason": "forbidden",
        "candidate_code": difference["candidate_code"],
        "candidate_policy": server.status("shadow")["hash"],
    }
    sample = 'tollgate_shadow_differences_total{candidate_reason="forbidden",reason="allowed",route="infer"}'
    assert server.metric(sample) == 1
    (line,) = [line for line in server.log if line["event"] == "the shadow policy differs"]
    assert line["candidate_reason"] == "forbidden"
    assert "dropped_fields" not in line


def test_no_credential_is_kept(server: Serving) -> None:
    secret = token()
    server.check(secret)
    differences(server, 1)
    assert secret.rpartition(".")[2] not in server.get("/policy/shadow").text


def test_the_ledger_holds_what_was_decided(server: Serving, redis_url: str) -> None:
    from redis import Redis

    for _ in range(5):
        server.check(token())
    differences(server, 5)
    with Redis.from_url(redis_url) as client:
        events = client.xrange("{tg0}:events")
    assert isinstance(events, list)
    assert len(events) == 5


def test_limits_are_counted_apart(server: Serving) -> None:
    """The candidate allows two an hour; the real limit is not touched, and its count is right."""
    server.write("candidate.yaml", rate=2)
    before = server.status("shadow")["hash"]
    assert server.reload().json()["shadow"]["hash"] != before
    someone = token()
    answers = [server.check(someone) for _ in range(5)]
    assert {answer.status.code for answer in answers} == {0}
    found = differences(server, 3)
    assert {each["candidate_reason"] for each in found} == {"over_limit"}
    headers = {each.header.key: each.header.value for each in answers[-1].ok_response.response_headers_to_add}
    assert "r=999995;" in headers["ratelimit"]


def test_agreement_is_no_difference(server: Serving) -> None:
    server.write("candidate.yaml", rate=500_000)
    assert server.reload().json()["shadow"]["changed"]
    server.check(token())
    server.check("nonsense")
    wait_for(lambda: server.metric('tollgate_shadow_compared_total{result="same"}') == 2)
    differences(server, 0)


def test_a_bad_candidate_hurts_nobody(server: Serving) -> None:
    before = server.status("shadow")["hash"]
    (server.directory / "candidate.yaml").write_text("nonsense")
    wait_for(lambda: "rejected" in server.status("shadow"))
    ready = server.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["shadow"]["hash"] == before
    assert "rejected" not in ready.json()["policy"]
    assert server.check(token()).status.code == 0


def test_the_candidate_becomes_the_policy(server: Serving) -> None:
    (server.directory / "policy.yaml").write_text(policy(server.jwks, roles="admin"))
    assert server.reload().json()["policy"]["hash"] == server.status("shadow")["hash"]
    assert server.check(token()).status.code == 7
    wait_for(lambda: server.metric('tollgate_shadow_compared_total{result="same"}') == 1)
