"""A policy is taken whole or not at all, and every fault is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import PolicyFaults
from ext_authz.policy.issuers import Claims
from ext_authz.policy.kserve import Right
from ext_authz.policy.load import examine, load_policy
from ext_authz.policy.model import Algorithm, Limit
from ext_authz.policy.rights import NOBODY, Has, Trait
from tests.unit.policy.writing import ENVIRON, GOOD, write

DEMO = Path(__file__).parents[3] / "devstack/stack/policy.yaml"


def test_the_demo_policy_loads() -> None:
    policy = load_policy(DEMO, ENVIRON)
    assert policy.issuers[0].issuer == ENVIRON["TOLLGATE_ISSUER"]
    assert policy.issuers[0].jwks_url == ENVIRON["TOLLGATE_ISSUER"] + "/protocol/openid-connect/certs"
    assert policy.issuers[0].claims == Claims(
        roles=(("realm_access", "roles"), ("resource_access", "triton-gateway", "roles"))
    )
    infer = Has(Trait.ROLE, frozenset({"infer"}))
    rights = {Right.CALL: infer, Right.SEE: infer, Right.ADMINISTER: NOBODY}
    assert {"sentiment", "cancer", "digits"} <= {rule.name for rule in policy.models.all}
    assert [rule.rights for rule in policy.models.all] == [rights] * len(policy.models.all)
    (route,) = [route for route in policy.routes if route.name == "infer"]
    assert [rule.of("default") for rule in route.limits] == [
        Limit("user-minute", ("user",), 10, 60),
        Limit("path-minute", ("path",), 100, 60),
    ]


def test_a_grpc_method_is_a_path_and_only_for_grpc() -> None:
    (stream,) = [route for route in load_policy(DEMO, ENVIRON).routes if route.name == "grpc-stream"]
    assert (stream.path, stream.methods) == ("/inference.GRPCInferenceService/ModelStreamInfer", frozenset({"POST"}))
    assert stream.grpc


def test_a_burst_goes_with_gcra(tmp_path: Path) -> None:
    text = GOOD.replace("rate: 10/minute", "rate: 10/minute, algorithm: gcra, burst: 3")
    assert load_policy(write(tmp_path, text), {}).limits["user"].of("default") == Limit(
        "user", ("user",), 10, 60, Algorithm.GCRA, 3
    )


def test_the_hash_follows_the_bytes(tmp_path: Path) -> None:
    before = load_policy(write(tmp_path, GOOD), {}).hash
    assert load_policy(write(tmp_path, GOOD), {}).hash == before
    assert load_policy(write(tmp_path, GOOD + "# touched\n"), {}).hash != before


@pytest.mark.parametrize("part", ["issuers", "routes"])
def test_a_name_stands_once(tmp_path: Path, part: str) -> None:
    document = yaml.safe_load(GOOD)
    document[part] += yaml.safe_load(GOOD)[part]
    faults = examine(write(tmp_path, yaml.safe_dump(document)), {}).faults
    assert f"{part}.1.name" in [fault.path for fault in faults if fault.code == "defined_twice"]


def test_all_faults_are_told_at_once_in_order_of_their_places(tmp_path: Path) -> None:
    text = GOOD.replace("10/minute", "x").replace("audiences: [gateway]", "audiences: []")
    with pytest.raises(PolicyFaults) as wrong:
        load_policy(write(tmp_path, text), {})
    assert [fault.path for fault in wrong.value.faults] == ["issuers.0.audiences", "limits.user.rate"]


def test_faults_between_parts_are_told_at_once_too(tmp_path: Path) -> None:
    text = GOOD.replace("limits: [user]", "limits: [usr], when: identity.roll") + (
        "experiments:\n  e: {model: nothing, weights: {a: 100}}\n"
    )
    with pytest.raises(PolicyFaults) as wrong:
        load_policy(write(tmp_path, text), {})
    assert [fault.path for fault in wrong.value.faults] == ["routes.0.limits.0", "routes.0.when", "experiments.e.model"]


def test_no_file_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml.*no such file"):
        load_policy(tmp_path / "none.yaml", {})


def test_plain_http_can_be_asked_for(tmp_path: Path) -> None:
    text = GOOD.replace("https://", "http://").replace("audiences:", "plain_http: true, audiences:")
    assert load_policy(write(tmp_path, text), {}).issuers[0].jwks_url.startswith("http://id.example")


def test_a_directory_is_one_policy(tmp_path: Path) -> None:
    whole = yaml.safe_load(GOOD)
    models = {"models": whole.pop("models")}
    write(tmp_path, yaml.safe_dump(whole), "a.yaml")
    write(tmp_path, yaml.safe_dump(models), "b.yaml")
    assert load_policy(tmp_path, {}).models.rule("cancer") is not None


def test_a_checker_gets_what_could_be_read(tmp_path: Path) -> None:
    good = examine(write(tmp_path, GOOD), {})
    assert good.policy is not None
    assert not good.faults
    unfinished = examine(write(tmp_path, GOOD.replace("[user]}", "[usr]}")), {})
    assert unfinished.policy is None
    assert unfinished.document is not None
    assert [fault.code for fault in unfinished.faults] == ["unknown_limit"]
    assert examine(write(tmp_path, "version: ["), {}).source is None


def test_a_value_from_the_environment_is_in_no_message(tmp_path: Path) -> None:
    text = GOOD.replace("limits: [user]", "limits: ['${SECRET}']")
    with pytest.raises(PolicyFaults) as wrong:
        load_policy(write(tmp_path, text), {"SECRET": "hunter2hunter2"})
    assert all("hunter" not in str(fault) for fault in wrong.value.faults)
