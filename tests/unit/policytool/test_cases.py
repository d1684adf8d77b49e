"""`tollgate policy test`: what a file of tests can say, and what is printed when one fails."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import Result

from tests.unit.policytool.command_line import run, written

POLICY = """version: 1
issuers:
  - name: kc
    issuer: "https://id.example/${REALM}"
    audiences: [g]
    claims: {roles: [access.roles], scopes: [scp], groups: [memberOf], keep: [tenant]}
  - {name: other, issuer: "https://other.example", audiences: [g, h], clients: [app], max_token_age: 60s}
limits: {user: {key: [user], rate: 3/minute}}
models: {sentiment: {call: {all: [{role: infer}, {scope: models}, {group: ward}]}}, cat: {call: {client: app}}}
routes:
  - {name: infer, operation: infer, limits: [user]}
failure: {redis: local, grace: 30s}
"""
HEAD = """policy: policy.yaml
environment: {REALM: ml}
identities:
  alice: {user: alice, roles: [infer], scopes: [models], groups: [ward]}
tests:
"""
INFER = "request: {method: POST, path: /v2/models/sentiment/infer}"


def outcome(tmp_path: Path, tests: str) -> Result:
    """What the command says of these tests."""
    written(tmp_path, POLICY)
    return run("test", written(tmp_path, HEAD + tests, "cases.yaml"))


def test_claims_stand_where_the_issuer_has_them(tmp_path: Path) -> None:
    tests = f"""
  - {{name: one, identity: alice, {INFER}, expect: {{decision: allow, headers: {{x-token-issuer: https://id.example/ml}}}}}}
  - {{name: two, identity: {{roles: [infer]}}, {INFER}, expect: {{code: model_forbidden}}}}
  - name: three
    identity: {{issuer: other}}
    request: {{grpc: inference.GRPCInferenceService/ModelInfer, model: cat, version: "1"}}
    expect: {{decision: allow, headers: {{x-client-id: app}}, model: cat}}
"""
    assert outcome(tmp_path, tests).output.startswith("3 passed, 0 failed")


def test_a_service_is_itself_and_has_the_roles_of_the_policy(tmp_path: Path) -> None:
    web = (
        '{name: web, issuer: team/web, audiences: [g], asap: {repositories: ["https://keys.example"], roles: [infer]}}'
    )
    written(tmp_path, POLICY.replace("limits:", f"  - {web}\nlimits:", 1).replace("{client: app}", "{role: infer}"))
    tests = """
  - name: one
    identity: {issuer: web}
    request: {method: POST, path: /v2/models/cat/infer}
    expect: {decision: allow, headers: {x-user-id: team/web, x-client-id: team/web, x-user-roles: infer}}
  - name: two
    identity: {issuer: web, user: alice}
    request: {method: POST, path: /v2/models/cat/infer}
    expect: {decision: deny, code: subject_refused}
"""
    assert run("test", written(tmp_path, HEAD + tests, "cases.yaml")).output.startswith("2 passed, 0 failed")
    result = run("test", written(tmp_path, HEAD + tests.replace("user: alice", "roles: [infer]"), "cases.yaml"))
    assert "roles goes not with the issuer 'web'" in result.output


def test_time_passes_between_steps_and_counters_stay(tmp_path: Path) -> None:
    tests = f"""
  - name: one
    identity: alice
    {INFER}
    given: {{used: {{user: 2}}, time: 2026-01-31T23:59:59Z}}
    expect: {{decision: allow, limits: {{user: {{limit: 3, window: 60, remaining: 0, reset: 60}}}}}}
    then:
      - {{after: 59s, expect: {{reason: over_limit, retry_after: 1}}}}
      - {{after: 1s, repeat: 3, expect: {{limits: {{user: {{remaining: 0}}}}}}}}
      - {{identity: none, expect: {{reason: no_credential}}}}
"""
    assert outcome(tmp_path, tests).output.startswith("1 passed, 0 failed")


def test_an_outage_is_bridged_as_long_as_the_policy_allows(tmp_path: Path) -> None:
    tests = f"""
  - name: one
    identity: alice
    {INFER}
    given: {{redis: down}}
    repeat: 4
    expect: {{reason: over_limit}}
    then:
      - after: 29s
        identity: {{user: bob, roles: [infer], scopes: [models], groups: [ward]}}
        expect: {{decision: allow}}
      - {{after: 1s, expect: {{reason: unavailable, code: redis_unavailable, status: 503}}}}
      - {{given: {{redis: up}}, expect: {{decision: allow}}}}
"""
    assert outcome(tmp_path, tests).output.startswith("1 passed, 0 failed")


def test_a_failure_under_an_outage_shows_it(tmp_path: Path) -> None:
    tests = f"""
  - {{name: one, identity: alice, {INFER}, given: {{redis: down}}, expect: {{decision: deny}}}}
"""
    assert "     decided without redis, as the failure policy allows" in outcome(tmp_path, tests).output.splitlines()


@pytest.mark.parametrize("what", ["token", "session", "user", "client", "issuer"])
def test_whatever_can_be_revoked_can_be_given_as_revoked(what: str, tmp_path: Path) -> None:
    tests = f"""
  - {{name: one, identity: alice, {INFER}, given: {{revoked: [{what}]}}, expect: {{reason: revoked, status: 401}}}}
"""
    assert outcome(tmp_path, tests).output.startswith("1 passed")


def test_a_failure_shows_what_was_expected_and_seen_and_why(tmp_path: Path) -> None:
    tests = f"""
  - name: fine
    identity: alice
    {INFER}
    expect: {{decision: allow}}
  - name: wrong
    identity: alice
    {INFER}
    expect: {{decision: allow}}
    then:
      - identity: {{roles: [infer]}}
        expect:
          decision: allow
          status: 401
          limits: {{user: {{remaining: 2}}}}
          headers: {{x-user-id: alice, cache-control: null}}
"""
    result = outcome(tmp_path, tests)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[:14] == [
        "FAIL wrong",
        f"     {tmp_path / 'cases.yaml'}:11:5",
        "     at step 1 of then:",
        "     decision               expected  allow",
        "                            seen      deny",
        "     status                 expected  401",
        "                            seen      403",
        "     limits.user            expected  counted",
        "                            seen      not counted",
        "     headers.x-user-id      expected  alice",
        "                            seen      not there",
        "     headers.cache-control  expected  not there",
        "                            seen      no-store",
        "",
    ]
    assert "               no  scope models" in lines
    assert lines[-1].startswith("1 passed, 1 failed in ")


def test_ci_gets_junit(tmp_path: Path) -> None:
    written(tmp_path, POLICY)
    tests = f"""
  - {{name: fine, identity: none, {INFER}, expect: {{decision: deny}}}}
  - {{name: "wr\\u0001ong", identity: none, {INFER}, expect: {{status: 403}}}}
  - {{name: strange, identity: {{issuer: othr}}, {INFER}, expect: {{status: 403}}}}
"""
    path = written(tmp_path, HEAD + tests, "cases.yaml")
    assert run("test", tmp_path, "--policy", tmp_path / "policy.yaml", "--junit", tmp_path / "out.xml").exit_code == 2
    assert run("test", path, "--junit", tmp_path / "out.xml").exit_code == 1
    suite = ET.parse(tmp_path / "out.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    fine, wrong, strange = suite
    assert (fine.get("name"), list(fine), wrong.get("name")) == ("fine", [], "wr\\x01ong")
    assert wrong[0].tag == "failure"
    assert "credential_missing" in str(wrong[0].text)
    assert (strange[0].tag, strange[0].text) == ("error", "the policy has no issuer 'othr': did you mean 'other'?")


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        (f"  - {{name: a, identity: none, {INFER}, expekt: {{}}}}", "6:90: error: unknown key 'expekt'"),
        (f"  - {{name: a, identity: alise, {INFER}, expect: {{}}}}", "expect something: at least a decision"),
        (f"  - {{name: a, identity: alise, {INFER}, expect: {{status: 1}}}}", "did you mean 'alice'?"),
        (f"  - {{name: a, identity: none, {INFER}, expect: {{grpc: OKAY}}}}", "'OKAY' is no gRPC code"),
        (f"  - {{name: a, identity: none, {INFER}, expect: {{reason: forbiden}}}}", "did you mean 'forbidden'?"),
        ("  - {name: a, identity: none, request: {}, expect: {status: 1}}", "write either path or grpc"),
        ("  - {name: a, identity: none, request: {path: /, model: m}, expect: {status: 1}}", "go with grpc"),
        (
            f"  - {{name: a, identity: {{token: {{}}, user: a}}, {INFER}, expect: {{status: 1}}}}",
            "remove the other keys",
        ),
        ("  []", "must have at least one item"),
    ],
)
def test_faults_have_their_place_and_what_would_be_right(tests: str, expected: str, tmp_path: Path) -> None:
    result = outcome(tmp_path, tests + "\n")
    assert result.exit_code == 2
    assert f"{tmp_path / 'cases.yaml'}:" in result.output
    assert expected in result.output


def test_a_policy_is_no_file_of_tests(tmp_path: Path) -> None:
    result = run("test", written(tmp_path, "version: 1\nroutes: []\n"))
    assert result.exit_code == 2
    assert "'tests' is missing (tests); for example tests: [{name: probes, request:" in result.output


def test_what_was_used_must_count_against_something(tmp_path: Path) -> None:
    tests = f"  - {{name: a, identity: alice, {INFER}, given: {{used: {{usr: 1}}}}, expect: {{decision: allow}}}}\n"
    result = outcome(tmp_path, tests)
    assert result.exit_code == 1
    assert "given.used: this request does not get as far as the limit usr, or does not count in it" in result.output
