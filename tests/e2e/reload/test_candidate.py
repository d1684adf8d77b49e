"""A candidate is compared: what it would have decided otherwise is reported, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from redis import Redis

from ext_authz.db.redis_keys import events as events_key
from ext_authz.ledger.event import decode
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.services import wait_for

SAME = 'tollgate_candidate_compared_decisions_total{result="same"}'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, stores: tuple[str, str]) -> Iterator[Serving]:
    """Its first candidate is no policy: it starts all the same."""
    directory = tmp_path_factory.mktemp("candidate")
    (directory / "candidate.yaml").write_text("to be written")
    with serving(directory, *stores, candidate_policy=directory / "candidate.yaml") as started:
        wait_for(lambda: "rejected" in started.status("candidate"))
        assert started.check(token()).status.code == 0
        yield started


@pytest.fixture
def server(running: Serving) -> Serving:
    """The candidate allows admins only."""
    running.write()
    running.write("candidate.yaml", roles="admin")
    running.reload().raise_for_status()
    return running


def differences(server: Serving, subject: str, number: int) -> list[dict[str, Any]]:
    """Every test has a subject of its own."""

    def found() -> list[dict[str, Any]]:
        listed = server.control("/policy/candidate").json()["differences"]
        return [each for each in listed if each["subject"] == subject]

    wait_for(lambda: len(found()) >= number)
    assert len(found()) == number
    return found()


def test_a_difference_is_counted_listed_and_logged(server: Serving) -> None:
    sample = 'tollgate_candidate_differences_total{candidate_reason="forbidden",reason="allowed",route="infer"}'
    before = server.metric(sample)
    answer = server.check(token(sub="listed"))
    assert answer.status.code == 0
    (difference,) = differences(server, "listed", 1)
    assert difference.pop("at") > 0
    assert difference == {
        "decision_id": answer.dynamic_metadata.fields["decision_id"].string_value,
        "subject": "listed",
        "client": "web-app",
        "route": "infer",
        "model": "sentiment",
        "reason": "allowed",
        "code": "",
        "policy": server.status()["hash"],
        "candidate_route": "infer",
        "candidate_reason": "forbidden",
        "candidate_code": difference["candidate_code"],
        "candidate_policy": server.status("candidate")["hash"],
    }
    assert server.metric(sample) == before + 1
    *_, line = [line for line in server.log if line["event"] == "the candidate policy differs"]
    assert line["decision_id"] == difference["decision_id"]
    assert line["candidate_reason"] == "forbidden"
    assert "dropped_fields" not in line


def test_no_credential_is_kept(server: Serving) -> None:
    secret = token(sub="secretive")
    server.check(secret)
    differences(server, "secretive", 1)
    assert secret.rpartition(".")[2] not in server.control("/policy/candidate").text


def test_the_ledger_holds_what_was_decided(server: Serving, stores: tuple[str, str]) -> None:
    for _ in range(5):
        server.check(token(sub="billed"))
    differences(server, "billed", 5)
    with Redis.from_url(stores[0]) as client:
        events = client.xrange(events_key())
    assert isinstance(events, list)
    billed = [event for event in (decode(fields[b"e"]) for _, fields in events) if event.subject == "billed"]
    assert [(event.reason, event.policy) for event in billed] == [("allowed", server.status()["hash"])] * 5


def test_limits_are_counted_apart(server: Serving) -> None:
    """The candidate allows two an hour; the real limit is not touched, and its count is right."""
    before = server.status("candidate")["hash"]
    server.write("candidate.yaml", rate=2)
    assert server.reload().json()["candidate"]["hash"] != before
    someone = token(sub="limited")
    answers = [server.check(someone) for _ in range(5)]
    assert {answer.status.code for answer in answers} == {0}
    found = differences(server, "limited", 3)
    assert {each["candidate_reason"] for each in found} == {"over_limit"}
    headers = {each.header.key: each.header.value for each in answers[-1].ok_response.response_headers_to_add}
    assert "r=999995;" in headers["ratelimit"]


def test_agreement_is_no_difference(server: Serving) -> None:
    candidate = server.status("candidate")["hash"]
    server.write("candidate.yaml", rate=500_000)
    assert server.reload().json()["candidate"]["hash"] != candidate
    before = server.metric(SAME)
    server.check(token(sub="agreed"))
    server.check("nonsense")
    wait_for(lambda: server.metric(SAME) == before + 2)
    differences(server, "agreed", 0)


def test_an_invalid_candidate_affects_no_caller(server: Serving) -> None:
    before = server.status("candidate")["hash"]
    (server.directory / "candidate.yaml").write_text("nonsense")
    wait_for(lambda: "rejected" in server.status("candidate"))
    ready = server.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["candidate"]["hash"] == before
    assert "rejected" not in ready.json()["policy"]
    assert server.check(token()).status.code == 0


def test_the_candidate_becomes_the_policy(server: Serving) -> None:
    (server.directory / "policy.yaml").write_text(policy(server.jwks, roles="admin"))
    assert server.reload().json()["policy"]["hash"] == server.status("candidate")["hash"]
    before = server.metric(SAME)
    assert server.check(token()).status.code == 7
    wait_for(lambda: server.metric(SAME) == before + 1)


def test_a_worker_that_took_the_place_of_a_dead_one_has_both_policies(server: Serving) -> None:
    in_force, candidate = server.status()["hash"], server.status("candidate")["hash"]
    children = psutil.Process(server.process.pid).children
    wait_for(lambda: len(children()) == 1)  # that of the generation before has ended
    (worker,) = children()
    worker.kill()
    wait_for(lambda: "a worker serves again" in {line["event"] for line in server.log}, 60)
    wait_for(lambda: server.status()["workers"] == [in_force])
    wait_for(lambda: server.status("candidate")["workers"] == [candidate])
    wait_for(server.ready)
    assert server.check(token()).status.code == 0
