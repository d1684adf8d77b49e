"""A policy is taken whole or not at all, and every fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ext_authz.errors import ConfigError
from ext_authz.limits.limit import Algorithm, Limit
from ext_authz.policy.load import load_policy
from ext_authz.policy.operation import ModelScope

DEMO = Path(__file__).parents[3] / "ext_authz/stack/policy.yaml"
ENVIRON = {"TOLLGATE_ISSUER": "http://127.0.0.1:8081/realms/tollgate"}

GOOD = """
version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway]}
limits:
  user: {key: [user], rate: 10/minute}
models:
  cancer: {roles: [infer]}
routes:
  - {name: infer, path: "/v2/models/{model}/infer", methods: [POST], model: one, limits: [user]}
"""


def write(path: Path, text: str) -> Path:
    file = path / "policy.yaml"
    file.write_text(text)
    return file


def test_the_demo_policy_loads() -> None:
    policy = load_policy(DEMO, ENVIRON)
    assert policy.issuers[0].issuer == ENVIRON["TOLLGATE_ISSUER"]
    assert policy.issuers[0].jwks_url == ENVIRON["TOLLGATE_ISSUER"] + "/protocol/openid-connect/certs"
    assert policy.models == {"sentiment": frozenset({"infer"}), "cancer": frozenset({"infer"})}
    (infer,) = [route for route in policy.routes if route.name == "infer"]
    assert infer.model is ModelScope.ONE
    assert tuple(rule.of("default") for rule in infer.limits) == (
        Limit("user-minute", ("user",), 10, 60),
        Limit("path-minute", ("path",), 100, 60),
    )


def test_a_grpc_method_is_a_path_and_only_for_grpc() -> None:
    (stream,) = [route for route in load_policy(DEMO, ENVIRON).routes if route.name == "grpc-stream"]
    assert (stream.path, stream.methods) == ("/inference.GRPCInferenceService/ModelStreamInfer", frozenset({"POST"}))
    assert (stream.grpc, stream.model) == (True, ModelScope.ALL)


def test_a_burst_makes_gcra(tmp_path: Path) -> None:
    text = GOOD.replace("rate: 10/minute", "rate: 10/minute, algorithm: gcra, burst: 3")
    (route,) = load_policy(write(tmp_path, text), {}).routes
    assert tuple(rule.of("default") for rule in route.limits) == (Limit("user", ("user",), 10, 60, Algorithm.GCRA, 3),)


def test_the_hash_follows_the_bytes(tmp_path: Path) -> None:
    before = load_policy(write(tmp_path, GOOD), {}).hash
    assert load_policy(write(tmp_path, GOOD), {}).hash == before
    assert load_policy(write(tmp_path, GOOD + "# touched\n"), {}).hash != before


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("version: 1", "version: 2", "version: input should be 1"),
        ("audiences: [gateway]", "audiences: []", "issuers.0.audiences: frozenset should have at least 1 item"),
        ("audiences: [gateway]", "audience: [gateway]", "issuers.0.audience: extra inputs are not permitted"),
        (
            "audiences: [gateway]",
            "audiences: [gateway], algorithms: [HS256]",
            "issuers.0.algorithms.0: input should be 'RS256'",
        ),
        ("audiences: [gateway]", "audiences: [gateway], leeway: 5m", "more than 60s of leeway lets expired tokens in"),
        ("audiences: [gateway]", "audiences: [gateway], leeway: soon", "write a duration as a whole number"),
        ("https://id.example", "ftp://id.example", "issuers.0.issuer: string should match"),
        ("https://id.example", "http://id.example", "keys fetched over http can be replaced on the way"),
        ("10/minute", "ten/minute", "limits.user.rate: write a rate as number/period"),
        ("10/minute", "0/minute", "limits.user.rate: write a rate as number/period"),
        ("10/minute", "10/minute, burst: 3", "limits.user: burst goes with algorithm: gcra"),
        ("key: [user]", "key: [moon]", "limits.user.key.0: input should be 'user', 'client'"),
        ("key: [user]", "key: []", "limits.user.key: tuple should have at least 1 item"),
        ("limits: [user]", "limits: [usr]", "route 'infer': limit 'usr' is not defined (defined: user)"),
        ("roles: [infer]", "roles: []", "models.cancer.roles: frozenset should have at least 1 item"),
        ("methods: [POST]", "methods: [FETCH]", "routes.0.methods.0: input should be 'GET'"),
        (", methods: [POST]", "", "routes.0: methods go with path, and path needs methods"),
        ("methods: [POST]", "methods: [POST], grpc: a.B/C", "routes.0: give either path or grpc"),
        ("/v2/models/{model}/infer", "/v2/models/infer", "routes.0: model: one needs {model} in the path"),
        ("/v2/models/{model}/infer", "/v2//{model}/infer", "routes.0.path: write a path as /literal/{placeholder}"),
        ("/v2/models/{model}/infer", "v2/{model}", "routes.0.path: write a path as /literal/{placeholder}"),
        (
            "methods: [POST], model: one",
            "methods: [POST], public: true",
            "routes.0: a public route takes no roles, limits or model",
        ),
        ("models:", "modles:", "modles: extra inputs are not permitted"),
        ("version: 1", "version: 1\nversion: 1", "key 'version' stands twice"),
        ("version: 1", "version: 1\nrealm: 'a\"b'", "realm: string should match pattern"),
        ("gateway]", "'${NOWHERE}']", "the environment variable NOWHERE that the policy refers to is not set"),
        ("version: 1", "version: [", "while parsing"),
    ],
)
def test_a_fault_is_one_sentence_that_names_its_place(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as wrong:
        load_policy(write(tmp_path, GOOD.replace(old, new, 1)), {})
    assert sentence in str(wrong.value)
    assert str(tmp_path / "policy.yaml") in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("part", ["issuers", "routes"])
def test_a_name_stands_once(tmp_path: Path, part: str) -> None:
    document = yaml.safe_load(GOOD)
    document[part] *= 2
    with pytest.raises(ConfigError, match="stands twice"):
        load_policy(write(tmp_path, yaml.safe_dump(document)), {})


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("10/minute", "x").replace("audiences: [gateway]", "audiences: []")
    with pytest.raises(ConfigError) as wrong:
        load_policy(write(tmp_path, text), {})
    assert "limits.user.rate" in str(wrong.value)
    assert "issuers.0.audiences" in str(wrong.value)


def test_no_file_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_policy(tmp_path / "none.yaml", {})


def test_plain_http_can_be_asked_for(tmp_path: Path) -> None:
    text = GOOD.replace("https://", "http://").replace("audiences:", "plain_http: true, audiences:")
    assert load_policy(write(tmp_path, text), {}).issuers[0].jwks_url.startswith("http://id.example")
