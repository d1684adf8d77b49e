"""The report and the step, from rows of a real Postgres: who is counted, and what is decided."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result

from ext_authz.db.migrate import migrate
from ext_authz.experiment.commands import experiment
from ext_authz.phases.experiments import assigned
from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import Json

POLICY = """version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [triton]}
limits: {user: {key: [user], rate: 10/minute}}
models: {sentiment: {roles: [infer]}}
routes:
  - {name: infer, operation: infer, limits: [user]}
experiments:
  sentiment-v2:
    model: sentiment
    weights: {stable: 75, canary: 25}  # growing
    versions: {stable: "1", canary: "2"}
    mirror: {to: canary, percent: 100}
"""
CALLERS, CALLS = 200, 20


@pytest.fixture
async def rows(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[psycopg.Connection]:
    await migrate(database_url)
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def run(policy: Path, command: str, *options: str) -> Result:
    return CliRunner().invoke(experiment, [command, "sentiment-v2", str(policy), *options], catch_exceptions=False)


def report(policy: Path, *options: str) -> Json:
    found: Json = json.loads(run(policy, "report", "--format", "json", *options).stdout)
    return found


class Recorded:
    """Calls of callers, as the authorizer and Envoy would have recorded them."""

    def __init__(self, rows: psycopg.Connection, policy: Path) -> None:
        self._rows = rows
        self._policy = load_policy(policy, {})
        (self._experiment,) = self._policy.experiments.values()

    def subject_of(self, variant: str) -> str:
        return next(f"u{n}" for n in range(99) if assigned(self._experiment, "demo", f"u{n}") == variant)

    def call(
        self,
        subject: str,
        *,
        variant: str = "",
        status: int | None = 200,
        grpc_status: int | None = None,
        milliseconds: float = 5,
        operation: str = "infer",
        version: str = "",
    ) -> UUID:
        """`variant`: chosen by a header. `status` None: the access log has nothing. `version`: named by the call."""
        decision = uuid4()
        variant = variant or assigned(self._experiment, "demo", subject)
        facts = json.dumps({"issuer_name": "demo", "variant": variant, "operation": operation})
        self._rows.execute(
            "INSERT INTO usage_events (decision_id, occurred_at, issuer, subject, client, token_id, route, model,"
            " model_version, method, path, reason, code, policy, facts) VALUES (%s, now() - interval '1 minute', 'i',"
            " %s, 'c', 't', 'r', 'sentiment', %s, 'POST', '/', 'allowed', '', %s, %s)",
            (decision, subject, version, self._policy.hash, facts),
        )
        if status is not None:
            self._rows.execute(
                "INSERT INTO call_outcomes (decision_id, status, grpc_status, flags, details, duration_ms, bytes_in,"
                " bytes_out, upstream, upstream_address) VALUES (%s, %s, %s, '', '', %s, 1, 1, '', '')",
                (decision, status, grpc_status, milliseconds),
            )
        return decision

    def everyday(self, *, failing: int = 0, slower: float = 1) -> None:
        """`failing`: of 20 calls of each caller of the canary."""
        with self._rows.transaction(), self._rows.pipeline():
            for number in range(CALLERS):
                is_canary = assigned(self._experiment, "demo", f"u{number}") == "canary"
                for call in range(CALLS):
                    status = 500 if is_canary and call < failing else 200
                    time = (5 + (number * CALLS + call) % 100 / 100) * (slower if is_canary else 1)
                    self.call(f"u{number}", status=status, milliseconds=time)

    def predicted(self, decision: UUID, label: str, copied: str = "", row: int = 0, subject: str = "s") -> None:
        for variant, mirrored, text in (("stable", False, label), ("canary", True, copied)):
            if text:
                self._rows.execute(
                    "INSERT INTO predictions (model, id, decision_id, row, at, version, variant, mirrored, issuer,"
                    " subject, client, outputs, milliseconds, bytes, host) VALUES ('sentiment', %s, %s, %s,"
                    " now() - interval '1 minute', '1', %s, %s, 'i', %s, 'c', %s, 1, 1, 'h')",
                    (uuid4(), decision, row, variant, mirrored, subject, json.dumps({"label": text, "score": 0.5})),
                )


@pytest.fixture
def recorded(rows: psycopg.Connection, policy: Path) -> Recorded:
    return Recorded(rows, policy)


def test_a_good_canary_grows_and_the_file_keeps_its_comment(
    recorded: Recorded, rows: psycopg.Connection, policy: Path
) -> None:
    recorded.everyday()
    found = report(policy)
    assert found["decision"] == "promote"
    sides = found["variants"]
    assert (sides["stable"]["calls"], sides["canary"]["version"]) == (
        (CALLERS - sides["canary"]["callers"]) * CALLS,
        "2",
    )
    shown = run(policy, "step")
    assert "+    weights: {stable: 50, canary: 50}  # growing" in shown.stdout
    assert policy.read_text() == POLICY
    assert "canary has the weight 50 now, and had 25" in run(policy, "step", "--write").stderr
    assert policy.read_text() == POLICY.replace("stable: 75, canary: 25", "stable: 50, canary: 50")
    again = run(policy, "step", "--write")
    assert "canary keeps the weight 50" in again.stdout, "the same records are no proof of a weight that nobody had"
    assert "0 callers of canary called under this policy" in again.stderr
    recorded = Recorded(rows, policy)
    for number in range(CALLERS):
        recorded.call(f"u{number}")
    assert "canary has the weight 100 now" in run(policy, "step", "--write").stderr


@pytest.mark.parametrize(("failing", "slower"), [(2, 1.0), (0, 2.0)])
def test_a_bad_canary_gets_nothing(recorded: Recorded, policy: Path, failing: int, slower: float) -> None:
    recorded.everyday(failing=failing, slower=slower)
    assert report(policy)["decision"] == "roll back"
    run(policy, "step", "--write")
    assert "weights: {stable: 100, canary: 0}  # growing" in policy.read_text()
    assert "canary keeps the weight 0: it is rolled back" in run(policy, "step", "--write").stdout


def test_with_little_data_nothing_changes(recorded: Recorded, policy: Path) -> None:
    assert report(policy)["decision"] == "hold"
    for number in range(12):
        recorded.call(f"u{number}")
    result = run(policy, "step", "--write")
    assert "canary keeps the weight 25" in result.stdout
    assert policy.read_text() == POLICY


def test_who_counts(recorded: Recorded, policy: Path) -> None:
    mine, other = recorded.subject_of("canary"), recorded.subject_of("stable")
    recorded.call(mine)
    recorded.call(mine, status=None)
    recorded.call(mine, status=400)
    recorded.call(mine, grpc_status=3)
    recorded.call(mine, status=0)
    recorded.call(mine, status=503)
    recorded.call(mine, grpc_status=13)
    recorded.call(mine, operation="metadata", status=500)
    recorded.call(other, variant="canary", status=500, milliseconds=9999)
    recorded.call(other, version="1", status=500)
    found = report(policy)
    canary = found["variants"]["canary"]
    assert (canary["calls"], canary["callers"], canary["gone"], found["left_aside"]) == (7, 1, 1, 2)
    assert found["variants"]["stable"]["calls"] == 0, "who names a version chose: in the canary it would be aside"
    errors = canary["errors"]
    assert (errors["hits"], errors["total"]) == (3, 6)
    assert "9999" not in json.dumps(canary["latency_ms"])


def test_who_came_into_the_canary_counts_from_then_on(recorded: Recorded, policy: Path) -> None:
    mine = recorded.subject_of("canary")
    recorded.call(mine, variant="stable", milliseconds=9999)
    recorded.call(mine, milliseconds=7)
    found = report(policy)
    assert (found["variants"]["stable"]["calls"], found["left_aside"]) == (0, 1)
    assert found["variants"]["canary"]["latency_ms"]["p50"] == {"value": 7, "low": 0, "high": None}
    assert "7.0 ms  (0.0 to unknown)" in run(policy, "report").stdout


def test_agreement_is_of_a_call_and_its_copy(recorded: Recorded, policy: Path) -> None:
    subject = recorded.subject_of("stable")
    for copied in ("positive", "positive", "negative", ""):
        recorded.predicted(recorded.call(subject), "positive", copied)
    both = recorded.call(subject)
    recorded.predicted(both, "neutral", "neutral", row=0)
    recorded.predicted(both, "positive", "neutral", row=1)
    copies = report(policy)["copies"]
    assert (copies["agreement"]["hits"], copies["agreement"]["total"]) == (3, 5)
    assert copies["labels"] == {"negative": 1, "neutral": 2, "positive": 2}
    text = run(policy, "report").stdout
    assert "copies with the label of their call: 3 of 5  60.00 %" in text
    assert "stable positive, canary neutral: 1" in text
    found = report(policy, "--agreement", "0.6")
    assert found["decision"] == "hold"
    assert "copies of 1 caller were compared, and 10 are asked for" in found["why"]
    for number in range(40):
        name = f"u{number}"
        recorded.predicted(recorded.call(name), "positive", "positive" if number % 2 else "negative", subject=name)
    found = report(policy, "--agreement", "0.9")
    assert any("of the copies agree at most" in why for why in found["why"])


def test_without_a_prediction_log_it_says_so(recorded: Recorded, rows: psycopg.Connection, policy: Path) -> None:
    assert "it needs models.sentiment.predictions in the policy" in run(policy, "report").stdout
    rows.execute("DROP TABLE predictions")
    assert "run tollgate migrate" in run(policy, "report").stdout
