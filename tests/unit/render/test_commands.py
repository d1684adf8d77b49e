"""`tollgate policy render`: its options, and errors about wrong ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ext_authz.errors import ConfigError
from ext_authz.render.commands import render
from ext_authz.render.endpoints import Address, Endpoints, Triton, address, triton
from ext_authz.render.envoy import bootstrap
from ext_authz.render.text import as_yaml
from tests.unit.render.policies import DEMO, ENVIRONMENT, ROOT, whole_demo

PLAIN = str(ROOT / "docs/cookbook/01-public-health/policy.yaml")
"""A policy without an experiment."""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(render, arguments, env=ENVIRONMENT, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_envoy_as_the_stack_has_it() -> None:
    assert run("envoy", str(DEMO)) == as_yaml(bootstrap(whole_demo(), Endpoints()))


def test_envoy_elsewhere(tmp_path: Path) -> None:
    options = ["--port", "81", "--listen-host", "0.0.0.0", "--triton", "gpu:1:2", "--authorizer", "[::1]:3"]
    options += ["--console", "desk:5", "--console-grpc", "desk:6"]
    file = tmp_path / "envoy.json"
    run("envoy", str(DEMO), *options, "--format", "json", "--max-rest-bytes", "300000", "--out", str(file))
    text = file.read_text()
    found = json.loads(text)["static_resources"]
    assert found["listeners"][0]["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 81}
    assert '"max_request_bytes": 300000' in text
    assert [cluster["name"] for cluster in found["clusters"]] == [
        *("authorizer", "console", "console_grpc", "triton_http", "triton_grpc"),
        *(f"triton_{protocol}_{variant}" for variant in ("stable", "canary") for protocol in ("http", "grpc")),
    ]
    assert '"address": "::1"' in text
    assert '"address": "gpu"' in text
    assert [text.count(f'"port_value": {port}') for port in (5, 6)] == [1, 1]


def test_an_application_on_a_unix_socket() -> None:
    policy = str(ROOT / "docs/cookbook/21-mlflow-by-project/policy.yaml")
    text = run("envoy", policy, "--upstream", "mlflow=unix:/run/tollgate/filter.sock", "--format", "json")
    assert '"path": "/run/tollgate/filter.sock"' in text
    for wrong in ("mlflow=unix:filter.sock", "mlflow=/run/filter.sock", "mlflow=unix:"):
        with pytest.raises(ConfigError, match="is not of the form"):
            run("envoy", policy, "--upstream", wrong)


def test_copies_to_the_triton_that_serves_the_calls_are_told() -> None:
    policy = str(ROOT / "docs/cookbook/08-canary/policy.yaml")
    for options, is_told in (
        ((), True),
        (("--variant", "canary=new:1:2"), False),
        (("--variant", "canary=both:1:2", "--variant", "stable=both:1:2"), True),
    ):
        result = CliRunner().invoke(render, ["envoy", policy, *options], standalone_mode=False)
        assert ("calls of 'sentiment' by the variant 'stable' are copied to 'canary'" in result.stderr) == is_told


class TestTls:
    def test_a_server_is_verified_by_its_name(self) -> None:
        config = yaml.safe_load(run("envoy", str(DEMO), "--triton", "gpu.example:1:2", "--triton-ca", "ca.pem"))
        rest, rpc = config["static_resources"]["clusters"][-2:]
        for cluster, protocol in ((rest, "http/1.1"), (rpc, "h2")):
            tls = cluster["transport_socket"]["typed_config"]
            assert tls["sni"] == "gpu.example"
            assert tls["common_tls_context"]["alpn_protocols"] == [protocol]
            (name,) = tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
            assert name == {"san_type": "DNS", "matcher": {"exact": "gpu.example"}}

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--listen-cert", "a"], "--listen-cert and --listen-key belong together: give both"),
            (["--listen-ca", "a"], "--listen-ca needs --listen-cert and --listen-key"),
            (["--triton-cert", "a", "--triton-key", "b"], "--triton-cert needs --triton-ca"),
            (["--triton-plain-rest"], "--triton-plain-rest needs --triton-ca"),
        ],
    )
    def test_files_that_need_others(self, options: list[str], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            run("envoy", str(DEMO), *options)


def test_istio_writes_an_object_per_file(tmp_path: Path) -> None:
    names = run("istio", str(DEMO), "--out", str(tmp_path), "--triton", "ml/server", "--host", "m.example").split()
    assert sorted(names) == sorted(str(path) for path in tmp_path.rglob("*.yaml"))
    service = yaml.safe_load((tmp_path / "80-virtualservice-tollgate.yaml").read_text())["spec"]
    assert service["hosts"] == ["m.example"]
    (first, *_) = [route["route"] for route in service["http"] if route["name"] == "rest"]
    assert first[0]["destination"]["host"] == "server.ml.svc.cluster.local"
    lock = yaml.safe_load((tmp_path / "70-authorizationpolicy-server-gateway-only.yaml").read_text())
    assert lock["metadata"]["namespace"] == "ml"
    assert lock["spec"]["selector"] == {"matchLabels": {"app": "server"}}


def test_istio_names_the_files_of_a_former_rendering(tmp_path: Path) -> None:
    (tmp_path / "gateway-tollgate.yaml").write_text("")
    errors = CliRunner().invoke(render, ["istio", str(DEMO), "--out", str(tmp_path)], env=ENVIRONMENT).stderr
    assert f"{tmp_path / 'gateway-tollgate.yaml'} is not part of this rendering" in errors
    assert errors.count("not part of") == 1


def test_the_gateway_api_takes_the_account_of_the_gateway_from_its_name(tmp_path: Path) -> None:
    run("gateway-api", str(DEMO), "--out", str(tmp_path), "--bind", "edge")
    text = (tmp_path / "70-authorizationpolicy-triton-gateway-only.yaml").read_text()
    assert "cluster.local/ns/istio-ingress/sa/edge-istio" in text


def test_external_auth_says_what_it_leaves_out(tmp_path: Path) -> None:
    options = ["gateway-api", PLAIN, "--out", str(tmp_path), "--external-auth", "--gateway-class", "some"]
    errors = CliRunner().invoke(render, options, env=ENVIRONMENT).stderr
    assert "not rendered: gRPC calls whose message names the model (ModelInfer)" in errors
    assert "Istio's own chart" not in errors


def test_istio_with_labels_of_ones_own(tmp_path: Path) -> None:
    labels = ["--gateway-label", "app=edge", "--triton-label", "run=triton", "--triton-label", "tier=ml"]
    run("istio", str(DEMO), "--out", str(tmp_path), *labels)
    lock = yaml.safe_load((tmp_path / "65-peerauthentication-triton.yaml").read_text())
    assert lock["spec"]["selector"] == {"matchLabels": {"run": "triton", "tier": "ml"}}
    gateway = yaml.safe_load((tmp_path / "10-gateway-tollgate.yaml").read_text())
    assert gateway["spec"]["selector"] == {"app": "edge"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["envoy", str(DEMO), "--triton", "a:1"], "--triton: 'a:1' is not of the form host:http_port:grpc_port"),
        (["envoy", str(DEMO), "--variant", "canary"], "--variant: 'canary' is not of the form name=host"),
        (["envoy", str(DEMO), "--variant", "c=a:1:2"], "--variant: no experiment has a variant 'c'"),
        (["istio", str(DEMO), "--out", "x", "--triton", "t"], "--triton: 't' is not of the form namespace/name"),
        (["istio", str(DEMO), "--out", "x", "--triton-label", "t"], "--triton-label: 't' is not of the form key=value"),
        (["istio", str(DEMO), "--out", "x", "--bind", "gw~istio-autogenerated-k8s-gateway~http"], "--bind: 'gw~istio"),
        (
            ["gateway-api", str(DEMO), "--out", "x", "--bind", "a/b"],
            "'a/b' is not the name of a Gateway: write its nam",
        ),
        (["gateway-api", PLAIN, "--out", "x", "--external-auth"], "Istio's gateways do not know that filter"),
        *(
            ([command, str(DEMO), "--out", "x", option, value], f"{option}: {value!r} is not ")
            for command in ("istio", "gateway-api")
            for option, value in (
                ("--gateway-account", "*"),
                ("--trust-domain", "*"),
                ("--metrics-principal", "*"),
                ("--metrics-principal", "cluster.local/ns/*/sa/prometheus"),
                ("--gateway-namespace", ""),
                ("--host", "https://models.example"),
                ("--host", "models.example:443"),
                ("--tls-secret", "Bad_Name"),
                ("--variant-label", "a b"),
                ("--cluster-domain", ""),
            )
        ),
        (["gateway-api", str(DEMO), "--out", "x", "--external-auth", "--services"], "--services is not rendered with"),
        (
            ["istio", str(DEMO), "--out", "x", "--bind", "models"],
            "not of the form namespace/name, of a Gateway of Istio",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        CliRunner().invoke(render, arguments, env=ENVIRONMENT, catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize("text", ["", "a", "a:b", "a:0", "a:65536", "a:1:2", "[::1:1", "a b:1", "a:1\n"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        address(text)


def test_an_address_of_triton() -> None:
    assert triton("[fe80::1]:8000:8001") == Triton(Address("fe80::1", 8000), Address("fe80::1", 8001))
