"""`tollgate policy explain`: what is printed of a request, and that it is what the check does."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from ext_authz.decision import Request
from ext_authz.errors import ConfigError
from ext_authz.ledger.event import DecisionRecord, decode, decode_record
from ext_authz.policy.load import load_policy
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.explain import explanation, lines
from ext_authz.policytool.explain_recorded import _record
from ext_authz.policytool.simulator import Simulator
from tests.tokens import mint
from tests.unit.policytool.command_line import DEMO, run, written

INFER = ("POST", "/v2/models/sentiment/infer")
POLICY = """version: 1
issuers: [{name: kc, issuer: "https://id.example", audiences: [g], claims: {keep: [tenant]}}]
limits: {user: {key: [user, "claim:tenant"], plans: {gold: 20/minute, default: 10/minute}}}
plans: {gold: {roles: [gold]}}
models:
  sentiment:
    call: {any: [{role: infer}, {all: [{group: ward}, {not: {client: old}}]}]}
    versions: {"2": {call: {role: tester}}}
routes:
  - {name: infer, operation: infer, limits: [user], when: "identity.claims.tenant == request.headers['x-tenant']"}
  - {name: large, operation: infer, headers: [x-rows], permission: {scope: large}}
  - {name: elsewhere, operation: infer, hosts: [other.example]}
  - {name: files, path: "/files/{rest=**}", methods: [GET]}
"""


def explained(policy: Path, *arguments: str) -> str:
    """What is printed, with exit code 0."""
    result = run("explain", *arguments, policy)
    assert result.exit_code == 0
    return result.output


def test_a_demo_call_is_explained() -> None:
    text = explained(DEMO / "policy.yaml", *INFER, "--claims", '{"user": "alice", "roles": ["infer"]}')
    for line in (
        "allowed (policy ",
        "  yes route infer  (POST /v2/models/{model}/infer)",
        "2 yes identity  (alice of demo)",
        "      yes role infer",
        "  yes limit user-minute: 10 per 60 s  (counted by user demo:alice; costs 1; 9 left, whole again in 60 s)",
        "  x-user-id: alice",
    ):
        assert line in text


def test_no_path_controls_a_terminal() -> None:
    assert "GET /v2/\\x1b[31m at" in explained(DEMO / "policy.yaml", "GET", "/v2/\x1b[31m")


def test_wrong_claims_are_refused_with_an_example() -> None:
    example = """write '{"user": "alice", "roles": ["infer"]}', with any of claims, client,"""
    with pytest.raises(
        ConfigError, match=re.escape(f"--claims: 'sub' is no key of a caller, or has a wrong value: {example}")
    ):
        run("explain", *INFER, DEMO / "policy.yaml", "--claims", '{"sub": "alice"}')


def test_it_shows_why_each_other_route_does_not_apply(tmp_path: Path) -> None:
    text = explained(written(tmp_path, POLICY), *INFER, "--claims", '{"roles": ["infer"]}')
    assert "yes route infer  (operation infer)" in text
    assert "no  route large  (needs the header x-rows)" in text
    assert "no  route elsewhere  (serves the hosts other.example, not models.example)" in text
    assert "no  1 other routes  (their path or operation is another)" in text
    method = explained(written(tmp_path, POLICY), "POST", "/files/a/b")
    assert "no  route files  (takes GET, HEAD, OPTIONS, not POST)" in method
    assert "refused: method_not_allowed" in method
    escaped = explained(written(tmp_path, POLICY), "GET", "/files/a%20b")
    assert "no  route files  (takes no escapes: it needs encoding: decoded, or opaque)" in escaped
    assert "takes no escapes" not in explained(written(tmp_path, POLICY), "GET", "/files/a%2Fb")
    slash = explained(
        written(tmp_path, POLICY + '  - {name: all, path: "/{name}/", methods: [GET]}\n'), "GET", "/files/"
    )
    assert "no  route files  (is closest to the path, does not take this spelling of it, and keeps wider" in slash
    assert "no  route all  (the call is refused before it)" in slash
    assert "refused: no_route" in slash


def test_no_route_of_the_policy_is_close_to_what_tollgate_answers(tmp_path: Path) -> None:
    text = explained(written(tmp_path, POLICY), "GET", "/.tollgate/quota", "--claims", "{}")
    assert "yes route .tollgate/quota  (GET, HEAD /.tollgate/quota)" in text
    assert "no  4 other routes  (their path or operation is another)" in text


def test_nor_to_the_console(tmp_path: Path) -> None:
    tokens = "tokens: {audiences: [gateway], issuer: 'https://models.example/tollgate'}\n"
    text = explained(written(tmp_path, POLICY + tokens), "GET", "/tollgate/tokens")
    assert "yes route console  (DELETE, GET, HEAD, PATCH, POST, PUT /tollgate/{rest=**}; public)" in text
    assert "no  4 other routes  (their path or operation is another)" in text
    assert "allowed" in text


def test_a_condition_is_shown_with_its_answer_or_why_it_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, POLICY)
    tenant = '{"roles": ["infer", "tester"], "claims": {"tenant": "acme"}}'
    condition = "condition: identity.claims.tenant == request.headers['x-tenant']"
    assert f"no  {condition}  (no answer: " in explained(path, *INFER, "--claims", tenant)
    assert f"no  {condition}\n" in explained(path, *INFER, "--claims", tenant, "-H", "x-tenant: other")
    text = explained(path, *INFER, "--claims", tenant, "-H", "x-tenant: acme")
    assert f"yes {condition}\n" in text
    assert "claim tenant  (acme)" in text
    assert "-   plan  (default)" in text
    assert "limit user: 10 per 60 s  (counted by user kc:somebody, claim:tenant kc:acme; costs 1; 9 left" in text


def test_every_node_of_a_permission_has_its_answer(tmp_path: Path) -> None:
    claims = '{"groups": ["ward"], "client": "old", "claims": {"tenant": "a"}}'
    path = "/v2/models/sentiment/versions/2/infer"
    text = explained(written(tmp_path, POLICY), "POST", path, "--claims", claims, "-H", "x-tenant: a")
    lines = text.splitlines()
    whole = "  no  may call the model sentiment in version 2  (by the rule sentiment)"
    at = lines.index(whole)
    assert lines[at + 1 : at + 7] == [
        "      no  any of",
        "          no  role infer",
        "          no  all of",
        "              yes group ward",
        "              no  not",
        "                  yes client old",
    ]
    assert "      no  version 2: role tester" in text


def test_what_the_caller_is_told_is_told(tmp_path: Path) -> None:
    text = explained(DEMO / "policy.yaml", *INFER)
    assert "refused: no_credential, credential_missing" in text
    assert "response: HTTP 401, gRPC UNAUTHENTICATED" in text
    assert '  www-authenticate: Bearer realm="tollgate"' in text
    assert "3 -   permission  (not evaluated)" in text
    assert text.endswith("\nno store was used: counters start at zero, and nothing is revoked\n")


def test_an_unverified_token_is_marked_and_never_shown() -> None:
    token = mint({"iss": "https://id.example/realms/ml", "iat": 1_800_000_000, "exp": 1_800_000_060})
    arguments = (*INFER, DEMO / "policy.yaml", "--jwt", "-", "--time", "2027-01-15T08:00:30Z")
    result = run("explain", *arguments, stdin=token)
    assert "read UNVERIFIED" in result.stderr
    assert "2 yes identity" in result.stdout
    assert (
        "refused: invalid_credential, token_expired"
        in run("explain", *arguments[:-1], "2028-01-01T00:00:00Z", stdin=token).output
    )
    assert not any(part in result.output for part in token.split("."))


def test_as_json_it_is_the_same(tmp_path: Path) -> None:
    text = json.loads(explained(DEMO / "policy.yaml", *INFER, "--format", "json", "--claims", '{"roles": ["infer"]}'))
    assert (text["decision"], text["reason"], text["grpc"]) == ("allowed", "allowed", "OK")
    assert [(phase["what"], phase.get("holds")) for phase in text["phases"]] == [
        ("route", True),
        ("identity", True),
        ("permission", True),
        ("limits", True),
        ("experiment sentiment-v2", None),
    ]


def test_the_variant_of_a_caller_is_explained(tmp_path: Path) -> None:
    experiment = """experiments:
  try:
    {model: sentiment, weights: {stable: 100, canary: 0},
     override: {header: x-try, values: {"yes": canary}, permission: {role: tester}}}
"""
    policy = written(tmp_path, re.sub(r"experiments:\n(?:  .*\n)+", experiment, (DEMO / "policy.yaml").read_text()))
    plain = explained(policy, *INFER, "--claims", '{"roles": ["infer"]}')
    assert "5 -   experiment try  (stable: bucket " in plain
    assert "stable 100 %, canary 0 %)" in plain
    assert "  no  the header x-try chooses a variant" in plain
    chosen = explained(policy, *INFER, "--claims", '{"roles": ["infer", "tester"]}', "-H", "x-try: yes")
    assert "5 -   experiment try  (canary: bucket " in chosen
    assert "  yes the header x-try chooses a variant  (its value is yes)" in chosen
    assert "  yes may choose: role tester" in chosen
    assert "  x-model-variant: canary" in chosen


def test_who_acted_for_the_caller_is_told() -> None:
    assert "actor     batch for portal" in [*_record(DecisionRecord(actor=("batch", "portal")))]
    assert "actor" not in str([*_record(DecisionRecord())])


def test_the_decision_record_holds_what_the_explanation_prints(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, POLICY), {})
    simulator = Simulator(policy, 1_800_000_000)
    identity = IdentityDocument(user="alice", roles=("infer", "tester", "gold"), claims={"tenant": "acme"})
    token = simulator.callers.present(given_claims(identity, policy.issuers, simulator.clock.now()))
    request = Request("POST", "h.example", INFER[1], headers={"x-tenant": "acme"}, authorization=(token,))
    found = explanation(asyncio.run(simulator.check(request)))
    event = decode(simulator.counters.ledger[-1][0])
    record = decode_record(bytes(event.record))
    assert record
    text = "\n".join(lines(found))
    assert found.decision == "allowed"
    for line in (
        f"route {event.route}",
        f"call on {event.model}",
        f"{event.subject} of {record.issuer_name}",
        f"roles  ({', '.join(record.roles)})",
        f"claim tenant  ({record.claims['tenant']})",
        f"plan  ({record.plan})",
    ):
        assert line in text
    (counter,) = record.limits
    name, user, tenant = counter.split("\x1f")
    assert f"limit {name}: 20 per 60 s  (counted by user {user}, claim:tenant {tenant}; costs 1; 19 left" in text
