"""`tollgate policy check`: everything that is wrong or dangerous, each with its place and code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.policytool.command_line import DEMO, run, written

HEAD = """version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [triton]}
"""
INFER = """limits: {user: {key: [user], rate: 10/minute}}
models: {sentiment: {roles: [infer]}}
routes:
  - {name: infer, operation: infer, limits: [user]}
"""


def codes(path: Path) -> list[tuple[str, int]]:
    """Code and line of everything that is printed."""
    return [(fault["code"], fault["line"]) for fault in json.loads(run("check", path, "--format", "json").output)]


def test_the_demo_policy_has_no_warnings() -> None:
    result = run("check", DEMO / "policy.yaml", "--strict")
    assert (result.exit_code, result.output) == (0, "good\n")


def test_every_fault_is_told_with_its_place_and_what_would_be_right(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "rotes: []\n" + INFER.replace("[user]}\n", "[usr]}\n"))
    result = run("check", path)
    assert result.exit_code == 2
    assert f"{path}:4:1: error: unknown key 'rotes' (rotes); did you mean 'routes'?" in result.output
    assert "did you mean 'user'?" in result.output
    assert result.output.endswith("2 errors\n")


def test_warnings_fail_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + INFER.replace(", limits: [user]", ""))
    assert run("check", path).exit_code == 0
    assert run("check", path, "--strict").exit_code == 1
    assert run("check", path).output.endswith("good, with 2 warnings\n")


COPIED = """experiments:
  again: {model: sentiment, weights: {a: 99, b: 1}, versions: {a: "1", b: "1"}, mirror: {to: b}}
"""
WARNINGS = {
    "unused_limit": (INFER.replace("limits: {user", "limits: {other: {key: [ip], rate: 1/day}, user"), 4),
    "unused_plan": (INFER + "plans: {gold: {roles: [gold]}}\n", 8),
    "unlimited_inference": (INFER + "  - {name: again, operation: generate}\n", 8),
    "constant_condition": (INFER + "  - {name: meta, operation: metadata, when: 'true || request.is_grpc'}\n", 8),
    "public_route_to_model": (INFER + "  - {name: health, operation: health, public: true}\n", 8),
    "unreached_model": (INFER.replace("operation: infer", "path: /v2/models/other/infer, methods: [POST]"), 5),
    "model_in_path": (INFER + "  - {name: meta, path: /v2/models/sentiment, methods: [GET]}\n", 8),
    "role_pattern": (INFER.replace("[infer]}", "['team-*']}"), 5),
    "role_nearly_known": (INFER.replace("[infer]}", "[tester]}, other: {roles: [testers]}"), 5),
    "mirror_to_same_version": (INFER + COPIED, 9),
    "failure_allow": (INFER + "failure: {redis: allow}\n", 8),
}


@pytest.mark.parametrize("code", WARNINGS)
def test_what_is_dangerous_is_told(code: str, tmp_path: Path) -> None:
    text, line = WARNINGS[code]
    assert codes(written(tmp_path, HEAD + text)) == [(code, line)]


NAMED = "  - {name: named, path: /v2/models/sentiment/infer, methods: [POST], limits: [user]}\n"
TOLD = {
    "as all others": (NAMED, False),
    "by the permission": (NAMED.replace("}\n", ", permission: {role: infer}}\n"), True),
    "by the methods": (NAMED.replace("POST", "PUT, POST"), True),
    "as its metadata": (
        "  - {name: named, path: /v2/models/sentiment, methods: [GET]}\n  - {name: m, operation: metadata}\n",
        False,
    ),
    "by all below it": ("  - {name: named, path: '/v2/models/sentiment/{rest=**}', methods: [GET]}\n", True),
    "on its host": (NAMED.replace("}\n", ", hosts: ['*.example']}\n"), False),
}


@pytest.mark.parametrize("what", TOLD)
def test_a_model_in_a_path_is_told_unless_all_others_are_refused_alike(what: str, tmp_path: Path) -> None:
    route, is_told = TOLD[what]
    assert codes(written(tmp_path, HEAD + INFER + route)) == [("model_in_path", 8)] * is_told


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('"https://id.example/realms/ml", cnf: ignore', "bound_tokens_taken"),
        ('"https://id.example/realms/ml", leeway: 31s', "long_leeway"),
        ('"https://id.example/realms/ml", cnf: verify', "proofs_for_any_host"),
        ('"http://id.example/realms/ml", plain_http: true', "http_issuer"),
        ('"https://id.example/realms/ml/"', "issuer_spelling"),
        ('"https://ID.example/realms/ML"', "issuer_spelling"),
        ('"https://id.example/realms/ml/.well-known/openid-configuration"', "issuer_spelling"),
    ],
)
def test_an_issuer_that_believes_too_much_is_told(said: str, code: str, tmp_path: Path) -> None:
    assert codes(written(tmp_path, HEAD.replace('"https://id.example/realms/ml"', said) + INFER)) == [(code, 3)]


@pytest.mark.parametrize("other", ["https://id.example/realms/ml/", "https://id.example/realms/ML"])
def test_issuers_that_differ_in_a_slash_are_told(other: str, tmp_path: Path) -> None:
    second = f'  - {{name: again, issuer: "{other}", audiences: [triton]}}\n'
    assert ("issuers_alike", 4) in codes(written(tmp_path, HEAD + second + INFER))


def test_the_usual_spelling_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD.replace("realms/ml", "realms/ml/") + INFER)
    assert (
        "the issuer 'https://id.example/realms/ml/' ends with a slash (issuers.0.issuer); "
        "write it as its tokens do: most likely 'https://id.example/realms/ml'"
    ) in run("check", path).output


def test_a_route_that_another_takes_everything_from_is_told(tmp_path: Path) -> None:
    narrower = """  - {name: rest, path: "/v2/models/{model}/infer", methods: [POST], limits: [user]}
  - {name: versions, path: "/v2/models/{model}/versions/{version}/infer", methods: [POST], limits: [user]}
"""
    assert codes(written(tmp_path, HEAD + INFER + narrower)) == []
    grpc = narrower + '  - {name: rpc, grpc: "inference.GRPCInferenceService/*", limits: [user]}\n'
    assert codes(written(tmp_path, HEAD + INFER + grpc)) == [("shadowed_route", 7)]


def test_a_path_under_v2_that_is_no_call_is_reported(tmp_path: Path) -> None:
    slip = '  - {name: slip, path: "/v2/models/{model}/infr", methods: [POST]}\n'
    assert codes(written(tmp_path, HEAD + INFER + slip)) == [("unmatched_route", 8)]


def test_the_schema_describes_every_part() -> None:
    schema = json.loads(run("schema").output)
    assert {"issuers", "routes", "limits", "models"} <= schema["properties"].keys()
    assert {"policy", "identities", "tests"} <= json.loads(run("schema", "--tests").output)["properties"].keys()


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("plans: {gold: {roles: [infr]}}", "plans.gold.roles"),
        ("models: {m: {call: {all: [{role: infer}, {not: {role: infr}}]}}}", "models.m.call.all.1.not.role"),
        (
            'models: {m: {roles: [infer], versions: {"2": {call: {any: [{role: infr}]}}}}}',
            "models.m.versions.2.call.any.0.role",
        ),
        (
            "experiments: {e: {model: sentiment, weights: {a: 100}, "
            "override: {header: x, values: {a: a}, permission: {role: infr}}}}",
            "experiments.e.override.permission.role",
        ),
    ],
)
def test_a_role_that_is_nearly_another_is_found_wherever_it_stands(said: str, place: str, tmp_path: Path) -> None:
    text = INFER.replace("models: {sentiment: {roles: [infer]}}", f"{said}\n") if said.startswith("models") else INFER
    text = text if said.startswith("models") else text + said + "\n"
    faults = json.loads(run("check", written(tmp_path, HEAD + text), "--format", "json").output)
    assert [fault["path"] for fault in faults if fault["code"] == "role_nearly_known"] == [place]
