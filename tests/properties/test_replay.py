"""`tollgate policy diff --replay`: which recorded decisions would change, and which cannot be replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from click.testing import Result

from ext_authz.errors import ConfigError
from ext_authz.ledger.event import COLUMNS
from ext_authz.policytool.replay import LedgerFile
from tests.benchmarks.ledger import write
from tests.parquet import events_of, exported
from tests.unit.policytool.command_line import DEMO, run, written

ISSUER = "https://id.example/realms/ml"
POLICY = """version: 1
issuers: [{name: kc, issuer: "${TOLLGATE_ISSUER}", audiences: [g], claims: {keep: [tenant]}}]
limits: {user: {key: [user], rate: 3/minute}}
models: {sentiment: {roles: [infer]}, cat: {roles: [other]}}
routes:
  - {name: live, path: /v2/health/live, methods: [GET], public: true}
  - {name: infer, operation: infer, limits: [user]}
"""
Event = dict[str, Any]
FAULTY = 2


def event(
    second: float = 0, subject: str = "alice", facts: Event | None = None, said: Event | None = None, **more: str
) -> Event:
    """An allowed call of alice, but for the changes."""
    known: Event = {"host": "h", "source": "10.0.0.1", "operation": "infer", "issuer": "kc", "audiences": ["g"]}
    known |= {"roles": ["infer"], "issued_at": 1_800_000_000, "expires_at": 1_800_000_300, **(facts or {})}
    found = {
        "decision_id": str(UUID(int=int(second))),
        "occurred_at": datetime.fromtimestamp(1_800_000_000 + second, UTC).isoformat(),
        "reason": "allowed",
        "code": "",
        "degraded": "",
        "model_version": "",
        "issuer": ISSUER,
        "subject": subject,
        "client": "web",
        "token_id": f"of-{subject}",
        "route": "infer",
        "model": "sentiment",
        "method": "POST",
        "path": "/v2/models/sentiment/infer",
        "policy": "",
        "facts": known,
    }
    return {**found, **(said or {}), **more}


def diff(place: Path, events: list[Event], *changes: tuple[str, str]) -> Result:
    """POLICY and a changed copy of it over these events, as lines; from Parquet comes the same."""
    new = POLICY
    for before, after in changes:
        assert before in new
        new = new.replace(before, after)
    ledger = written(place, "".join(json.dumps(each) + "\n" for each in events), "ledger.jsonl")
    old, changed = written(place, POLICY, "old.yaml"), written(place, new, "new.yaml")
    result = run("diff", old, changed, "--replay", ledger)
    if result.exit_code != FAULTY:
        with TemporaryDirectory(dir=place) as directory:
            grouped = run("diff", old, changed, "--replay", exported(events, Path(directory)))
        assert (grouped.output, grouped.exit_code) == (result.output, result.exit_code)
    return result


@pytest.fixture
def replayed(tmp_path: Path) -> Callable[..., list[str]]:
    """What is printed of the replay."""

    def printed(events: list[Event], *changes: tuple[str, str]) -> list[str]:
        lines = diff(tmp_path, events, *changes).output.splitlines()
        start = next(number for number, line in enumerate(lines) if "recorded decisions" in line)
        return [line.strip() for line in lines[start:]]

    return printed


def test_a_policy_decides_as_it_did(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    asyncio.run(write(1500, ledger))
    result = run("diff", DEMO / "policy.yaml", DEMO / "policy.yaml", "--replay", ledger)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "no difference"
    assert lines[1].startswith("1,500 recorded decisions from 2027-01-15T08:0")
    assert lines[1].endswith(": 1,500 replayed, 0 would change")
    assert len(lines) == 2, "every decision came out as it was recorded"
    grouped = run(
        "diff",
        DEMO / "policy.yaml",
        DEMO / "policy.yaml",
        "--replay",
        exported(events_of(ledger), tmp_path / "parquet", batch=700),
    )
    assert (grouped.output, grouped.exit_code) == (result.output, 0)


def test_changes_are_counted_by_reason_route_and_user_with_examples(replayed: Callable[..., list[str]]) -> None:
    calls = [event(number, subject) for number, subject in enumerate(["alice", "bob", "alice"])]
    assert replayed(calls, ("sentiment: {roles: [infer]}", "sentiment: {roles: [tester]}"))[1:] == [
        "3 would be refused, 0 allowed, 0 with another reason",
        "by reason",
        "3  allowed -> forbidden/model_forbidden",
        f"such as {UUID(int=0)}, {UUID(int=1)}, {UUID(int=2)}",
        "by route",
        "3  infer: allowed -> forbidden/model_forbidden",
        "by user",
        "2  alice: allowed -> forbidden/model_forbidden",
        "1  bob: allowed -> forbidden/model_forbidden",
    ]


def test_limits_are_counted_anew_in_the_order_of_time(replayed: Callable[..., list[str]]) -> None:
    calls = [event(second) for second in (50, 0, 20, 61)]
    assert replayed(calls, ("3/minute", "2/minute"))[2:5] == [
        "by reason",
        "1  allowed -> over_limit",
        f"such as {UUID(int=50)}",
    ]
    over = [*calls, event(51, reason="over_limit", code="over_limit")]
    assert "1  over_limit -> allowed" in replayed(over, ("3/minute", "4/minute"))


def test_the_exit_code_is_about_decisions(tmp_path: Path) -> None:
    assert diff(tmp_path, [event()], ("3/minute", "4/minute")).exit_code == 0
    assert diff(tmp_path, [event()], ("{roles: [infer]}", "{}")).exit_code == 1
    assert diff(tmp_path, [event()], ("version: 1", "version: 2")).exit_code == 2


NOBODY = {"subject": "", "issuer": "", "client": "", "token_id": ""}
WHEN = "operation: infer, when: "
HEADER = """request.headers['x'] == ''"""
NEW = "  - {{name: new, path: /new, methods: [POST], public: {}}}\n"
NOWHERE = event(path="/new", route="", model="", reason="no_route", code="route_unknown", said=NOBODY)
UNKNOWN = {
    "an event of a version that kept no facts": (
        event(facts=None) | {"facts": None},
        "",
        "",
        "anything but the outcome",
    ),
    "no verdict": (event(reason="unavailable"), "", "", "a verdict: a dependency or the authorizer itself had failed"),
    "a long path": (event(path="/" + "a" * 511), "", "", "the whole path"),
    "a condition on a header": (event(), "operation: infer", f'{WHEN}"{HEADER}"', "headers"),
    "a route by header": (event(), "operation: infer", "operation: infer, headers: [x]", "headers"),
    "a condition on the query": (event(), "operation: infer", f"{WHEN}\"request.query == ''\"", "the query"),
    "a claim that nobody kept": (
        event(),
        "operation: infer",
        f"{WHEN}identity.claims.tenant == 'gold'",
        "the claim tenant",
    ),
    "a plan by a claim that nobody kept": (
        event(),
        "keep: [tenant]}}]",
        "keep: [plan, tenant]}}]\nplans: {gold: {claim: plan, values: [gold]}}",
        "the claim plan",
    ),
    "a cost by header": (event(), "rate: 3/minute", "rate: 3/minute, cost: {header: x-rows, max: 3}", "headers"),
    "a cost by query": (
        event(),
        "rate: 3/minute",
        "rate: 3/minute, cost: {cel: size(request.query), max: 3}",
        "the query",
    ),
    "a read of quotas that was refused": (
        event(
            reason="forbidden",
            code="model_forbidden",
            method="GET",
            path="/.tollgate/quota",
            route=".tollgate/quota",
            model="",
            facts={"operation": "", "grpc": False},
        ),
        "",
        "",
        "the query",
    ),
    "a list that was too long": (event(facts={"left_out": ["roles"]}), "", "", "a list of the token that was too long"),
    "roles in another claim": (
        event(),
        "keep:",
        "roles: [groups], keep:",
        "what the token holds where this policy reads it",
    ),
    "a bound token, perhaps": (event(), "audiences: [g]", "audiences: [g], cnf: ignore", "what the token holds"),
    "a refused token": (
        event(reason="invalid_credential", code="audience_mismatch", facts={"issuer": ""}, said=NOBODY),
        "audiences: [g]",
        "audiences: [g, h]",
        "what the refused token contained",
    ),
    "a call that needed no token": (
        event(method="GET", path="/v2/health/live", route="live", model="", said=NOBODY),
        "public: true",
        "public: false",
        "who called",
    ),
    "a body that was compressed": (event(reason="bad_request", code="body_compressed"), "", "", "headers"),
    "a body that was empty": (event(reason="bad_request", code="body_missing"), "", "", "headers"),
    "a call that had no route": (NOWHERE, "  - {name: infer", NEW.format("false") + "  - {name: infer", "who called"),
    "a call that had no route, in a protocol that nobody noted": (
        NOWHERE,
        "  - {name: infer",
        NEW.format("true") + "  - {name: infer",
        "which protocol was spoken",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_was_not_recorded_is_not_guessed(name: str, replayed: Callable[..., list[str]]) -> None:
    found, before, after, missing = UNKNOWN[name]
    first, *rest = replayed([found], (before, after))
    assert first.endswith(": 0 replayed, 0 would change")
    assert rest[0] == "not replayed: 1, because this was not recorded"
    assert rest[1].startswith(f"1  {missing}")


def test_what_was_recorded_is_replayed(replayed: Callable[..., list[str]]) -> None:
    for before, after, change in (
        ("audiences: [g]", "audiences: [h]", "invalid_credential/audience_mismatch"),
        ("audiences: [g]", "audiences: [g], clients: [app]", "invalid_credential/client_refused"),
        ("audiences: [g]", "audiences: [g], max_token_age: 60s", "invalid_credential/claim_invalid"),
        ("${TOLLGATE_ISSUER}", "${TOLLGATE_ISSUER}/other", "invalid_credential/issuer_unknown"),
        (
            "operation: infer,",
            f"{WHEN}identity.claims.tenant == 'a',",
            "forbidden/condition_false",
        ),
        ("operation: infer,", "operation: infer, hosts: [other],", "no_route/route_unknown"),
        ("rate: 3/minute}", "rate: 3/minute, dry_run: true}", ""),
    ):
        calls = [event(facts={"claims": {"tenant": "b"}})]
        printed = replayed(calls, (before, after))
        assert (f"1  allowed -> {change}" in printed) is (change != ""), (after, printed)


def test_dry_run_limits_show_whom_they_would_refuse(replayed: Callable[..., list[str]]) -> None:
    calls = [event(number) for number in range(3)]
    dry_run = "limits: {new: {key: [user], rate: 2/minute, dry_run: true}, user:"
    printed = replayed(calls, ("limits: {user:", dry_run), ("limits: [user]", "limits: [user, new]"))
    assert printed[1] == "0 would be refused, 0 allowed, 1 with another reason"
    assert "1  allowed -> allowed/dry_run_over_limit" in printed


def test_different_decisions_of_the_old_policy_are_reported(replayed: Callable[..., list[str]]) -> None:
    printed = replayed([event(reason="forbidden", code="model_forbidden")])
    assert printed[-1] == "1 were decided differently at the time than the old policy decides today"


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(event()) + "\n\n{}\n", "ledger.jsonl")
    with pytest.raises(ConfigError, match=r"ledger\.jsonl:3: this is no recorded decision"):
        LedgerFile(path)


@pytest.mark.parametrize("missing", sorted({*COLUMNS} - {"username"}))
def test_a_decision_without_one_of_its_fields_is_refused(tmp_path: Path, missing: str) -> None:
    fields = dict.fromkeys(COLUMNS, "") | {"occurred_at": "2026-11-20T13:00:00Z", "facts": None}
    assert len(LedgerFile(written(tmp_path, json.dumps(fields), "ledger.jsonl"))) == 1
    del fields[missing]
    path = written(tmp_path, json.dumps(fields), "ledger.jsonl")
    with pytest.raises(ConfigError, match=f"missing required field `{missing}`"):
        LedgerFile(path)
