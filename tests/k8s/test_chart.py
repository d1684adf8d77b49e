"""The chart as helm reads it: what it refuses, and that its policy and settings are ones that Tollgate takes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ext_authz.filter_settings import FilterSettings
from tests.k8s.programs import CHART, HELM, ROOT, VERSION, Object, pods, template
from tests.mesh.world.network import run

EXAMPLES = sorted((ROOT / "k8s" / "examples").glob("values-*.yaml"))
_FROM_THE_CHART = {"POLICY", "CANDIDATE_POLICY", "DATABASE_URL", "REDIS_URL", "REDIS_SHARDS", "REPLICA"}
_FROM_THE_CHART |= {"LISTEN_HOST", "ADMIN_HOST", "WORKERS", "DRAIN_DELAY", "DRAIN_TIMEOUT", "JWKS_CA_FILE"}
_FROM_THE_CHART |= {"USAGE_METRICS_HOST", "USAGE_METRICS_PORT", "ACCESS_LOG_LISTEN"}
_NOT_IN_A_CLUSTER = {"LISTEN_PORT", "ADMIN_PORT", "ADMIN_SOCKET", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA"}
_NOT_IN_A_CLUSTER |= {"DATABASE_DIRECT_URL"}  # a secret
_NOT_IN_A_CLUSTER |= {"CATALOGUE_MODELS"}  # a directory, and the chart mounts none for it
_FROM_THE_CHART |= {"CONSOLE_HOST", "CONSOLE_METRICS_PORT", "CONSOLE_CLIENT_SECRET", "CONSOLE_KEYS"}
_NOT_IN_A_CLUSTER |= {"CONSOLE_PORT", "CONSOLE_GRPC_PORT"}
_FROM_THE_CHART |= {"PREDICTIONS", "PREDICTIONS_KEY"}
_FROM_THE_CHART |= {"FILTER_LISTEN", "FILTER_MLFLOW_URL", "SMTP_URL", "BUDGET_WEBHOOK_KEY"}
_FROM_THE_CHART |= {f"KAFKA_{name}" for name in ("SERVERS", "USER", "PASSWORD", "CERT_FILE", "KEY_FILE")}
_FROM_THE_CHART |= {"GITLAB_TOKEN", "GITLAB_HOOK_TOKEN", "GITLAB_LISTEN"}
_OF_MODELS = {"TOLLGATE_VARIANT"}
PREDICTIONS = ("--values", ROOT / "k8s" / "examples" / "values-predictions.yaml")
KAFKA = ("--values", ROOT / "k8s" / "examples" / "values-kafka.yaml")
MLFLOW = ("--values", ROOT / "k8s" / "examples" / "values-mlflow.yaml")
GITLAB = ("--values", ROOT / "k8s" / "examples" / "values-gitlab.yaml")
CONSOLE = ("--values", ROOT / "k8s" / "examples" / "values-console.yaml")


def test_the_chart_is_linted() -> None:
    assert "0 chart(s) failed" in run(HELM, "lint", "--strict", CHART, "--kube-version", VERSION)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_linted(example: Path) -> None:
    assert "0 chart(s) failed" in run(HELM, "lint", "--strict", CHART, "--kube-version", VERSION, "--values", example)


def test_two_releases_share_no_name() -> None:
    for one, other in (("x", "x-tollgate"), ("blue", "green")):
        first, second = template(release=one), template(release=other)
        assert not {_identity(item) for item in first} & {_identity(item) for item in second}
        for pod in pods(first):
            assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == one


@pytest.mark.parametrize(
    "release",
    [
        *("x-usage-worker", "x-console", "x-publisher", "x-filter", "x-gitlab", "x-triton-stable", "x-egress"),
        *("1st", "a.b", "x" * 41),
    ],
)
def test_a_release_name_that_would_meet_another_is_refused(release: str) -> None:
    with pytest.raises(AssertionError, match=f'release name "{release}"'):
        template(release=release)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("authorizer.settings.TOLLGATE_REDIS_URL=x", "at '/authorizer/settings': additional properties 'TOLLGATE_RE"),
        ("authorizer.settings.PATH=/x", "at '/authorizer/settings': additional properties 'PATH' not allowed"),
        ("policy.env.TOLLGATE_X=a", "policy.env.TOLLGATE_X: settings of Tollgate are written in authorizer.settings"),
        ("policy.env.path=a", "at '/policy/env': additional properties 'path' not allowed"),
        ("triton.models.url=/models", "at '/triton/models/url': '/models' does not match pattern"),
        ("triton.models.url=s3://a,triton.models.claim=b", "write a claim or a url, not both"),
        ("triton.variants.canary.enabled=false", "at '/triton/variants/canary': additional properties 'enabled'"),
        ("triton.variants.NEXT.replicas=2", "at '/triton/variants': additional properties 'NEXT' not allowed"),
        ("triton.args={x}", "at '/triton/args/0': 'x' does not match pattern"),
        ("triton.resources.requests.cpu=-1", "at '/triton/resources/requests/cpu': minimum: got -1, want 0"),
        ("triton.models.temporary=1GB", "at '/triton/models/temporary': '1GB' does not match pattern"),
        (
            "triton.predictions.enabled=true,triton.namespace=models",
            "triton.predictions: the Secrets and the policy are in",
        ),
        ("triton.variants.stable.predictions.room=2Gi", "at '/triton/variants/stable': additional properties 'predic"),
        ("triton=null", "at '': missing property 'triton'"),
        ("authorizer.replica=3", "at '/authorizer': additional properties 'replica' not allowed"),
        ("authorizer.replicas=0", "at '/authorizer/replicas': minimum: got 0, want 1"),
        ("authorizer.drain=null", "at '/authorizer': missing property 'drain'"),
        ("console.enabled=true", "console.enabled: the policy has no section tokens"),
        ("console.keys=x", "at '/console/keys': got string, want object"),
        ("console.settings.TOLLGATE_CONSOLE_KEYS=x", "at '/console/settings': additional properties 'TOLLGATE_CONSOLE"),
        ("publisher.enabled=true", "at '/publisher/servers': minLength: got 0, want 1"),
        ("publisher.servers=kafka", "at '/publisher/servers': 'kafka' does not match pattern"),
        ("publisher.settings.TOLLGATE_KAFKA_PASSWORD=x", "at '/publisher/settings': additional properties 'TOLLGATE_K"),
        ("filter.enabled=true,networkPolicy.enabled=false", "filter.enabled: the filter takes the gateway's word for"),
        ("filter.mlflow.host=a/b", "at '/filter/mlflow/host': 'a/b' does not match pattern"),
        ("gitlab.enabled=true", "gitlab.enabled: the policy has no issuer with gitlab.rights"),
        ("gitlab.token=x", "at '/gitlab/token': got string, want object"),
        ("gitlab.database.name=x", "at '/gitlab/database': properties 'key' required, if 'name' exists"),
        ("gitlab.settings.TOLLGATE_GITLAB_TOKEN=x", "at '/gitlab/settings': additional properties 'TOLLGATE_GITLAB"),
        ("database.secret.name=a b", "at '/database/secret/name': 'a b' does not match pattern"),
        ("image.tag=a:b", "at '/image/tag': 'a:b' does not match pattern"),
        ("mesh.configMap=istio", "at '/mesh/configMap': 'istio' does not match pattern"),
        ("mesh.gatewayNamespace=", "at '/mesh/gatewayNamespace': '' does not match pattern"),
        ("networkPolicy.egressPorts={70000}", "at '/networkPolicy/egressPorts/0': maximum: got 70,000, want 65,535"),
        (r"policy.files.policy\.txt=x", "at '/policy/files': additional properties 'policy.txt' not allowed"),
        ("policy.files=null", "policy: write files, or name a ConfigMap in existingConfigMap"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence_that_names_it(value: str, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        template("--set", value)


def test_more_replicas_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(AssertionError, match="minReplicas is greater than maxReplicas"):
        template("--set", "authorizer.autoscaling.enabled=true,authorizer.autoscaling.minReplicas=20")


@pytest.mark.parametrize("values", [None, *EXAMPLES], ids=lambda path: path.stem if path else "default")
def test_its_policy_is_one(values: Path | None, tmp_path: Path) -> None:
    items = template(*(("--values", values) if values else ()))
    for item in (item for item in items if item["metadata"]["name"] == "tollgate-policy"):
        for name, text in item["data"].items():
            (tmp_path / name).write_text(text)
        assert run("tollgate", "policy", "check", tmp_path) == "good\n"


def test_the_settings_are_those_of_tollgate() -> None:
    settings = json.loads(run("tollgate", "settings", "--format", "json"))
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    not_offered = {f"TOLLGATE_{name}" for name in _FROM_THE_CHART | _NOT_IN_A_CLUSTER}
    for command, value, besides in (
        ("serve", "authorizer", set()),
        ("usage-worker", "usageWorker", {"TOLLGATE_LOG_LEVEL"}),
        ("console", "console", {"TOLLGATE_LOG_LEVEL"}),
        ("ledger publish", "publisher", {"TOLLGATE_LOG_LEVEL"}),
        ("filter", "filter", {"TOLLGATE_LOG_LEVEL"}),
        ("gitlab", "gitlab", {"TOLLGATE_LOG_LEVEL"}),
    ):
        known = {each["setting"] for each in settings if each["command"] == command}
        offered = set(schema[value]["properties"]["settings"]["properties"])
        assert offered == known - not_offered | besides


def test_pods_are_given_only_settings_that_exist() -> None:
    known = {each["setting"] for each in json.loads(run("tollgate", "settings", "--format", "json"))}
    secrets = "triton.predictions.keySecret.name=key,usageWorker.budgetSecret=budgets"
    options = ("--set", f"caConfigMap=ca,policy.candidateConfigMap=next,{secrets}")
    kafka = ("--set", "publisher.certificate=c", *KAFKA)
    rendered = [template(*values, *options) for values in (CONSOLE, PREDICTIONS, kafka, MLFLOW, GITLAB)]
    for pod in (pod for items in rendered for pod in pods(items)):
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            names = [variable["name"] for variable in container.get("env", [])]
            assert set(names) <= known | _OF_MODELS
            assert len(names) == len(set(names))


def test_the_policy_is_a_whole_directory() -> None:
    """A mount by subPath would never see a change."""
    for pod in pods(template()):
        for container in pod["spec"]["containers"]:
            mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] == "policy"]
            assert all("subPath" not in mount for mount in mounts)


def test_every_dashboard_and_rule_is_rendered() -> None:
    monitoring = template("--set", "monitoring.dashboards=true,monitoring.prometheusRule=true")
    dashboards = [item for item in monitoring if "grafana_dashboard" in item["metadata"].get("labels", {})]
    rules = [item for item in monitoring if item["kind"] == "PrometheusRule"]
    assert len(dashboards) == len(list((CHART / "files" / "dashboards").glob("*.json")))
    assert len(rules) == len(list((CHART / "files" / "rules").glob("*.yaml")))
    assert all(json.loads(text) for item in dashboards for text in item["data"].values())
    assert all(item["spec"]["groups"] for item in rules)


def test_the_console_is_two_pods_that_are_not_drained_at_once() -> None:
    items = {_identity(item): item for item in template(*CONSOLE)}
    deployment = items["Deployment", "tollgate-console"]["spec"]
    assert deployment["replicas"] == 2
    assert items["PodDisruptionBudget", "tollgate-console"]["spec"]["maxUnavailable"] == 1
    assert {
        port["name"]: port.get("appProtocol") for port in items["Service", "tollgate-console"]["spec"]["ports"]
    } == {
        "http": "http",
        "grpc": "grpc",
        "http-console": None,
    }
    [container] = deployment["template"]["spec"]["containers"]
    # With the identity provider away /readyz of both may be 503, and people must be able to revoke.
    assert container["readinessProbe"]["httpGet"] == {"path": "/tollgate/healthz", "port": "http"}
    secrets = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"]}
    assert secrets["TOLLGATE_CONSOLE_KEYS"] == {"name": "tollgate-console", "key": "keys"}
    assert secrets["TOLLGATE_CONSOLE_CLIENT_SECRET"] == {"name": "tollgate-console", "key": "client-secret"}
    assert not [name for _, name in map(_identity, template()) if "console" in name]


def test_the_publisher_has_its_password_and_certificate_from_secrets() -> None:
    assert not [name for _, name in map(_identity, template()) if "publisher" in name or "filter" in name]
    items = {_identity(item): item for item in template(*KAFKA, "--set", "publisher.certificate=kafka-client")}
    assert ("Service", "tollgate-publisher") not in items
    pod = items["Deployment", "tollgate-publisher"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["ledger", "publish"]
    secrets = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"]}
    assert secrets["TOLLGATE_KAFKA_PASSWORD"] == {"name": "tollgate-kafka", "key": "password"}
    assert "TOLLGATE_REDIS_URL" not in secrets
    [volume] = [each["secret"] for each in pod["volumes"] if each["name"] == "kafka"]
    assert volume["secretName"] == "kafka-client"


def test_the_filter_is_two_pods_without_a_secret() -> None:
    items = {_identity(item): item for item in template(*MLFLOW)}
    deployment = items["Deployment", "tollgate-filter"]["spec"]
    [container] = deployment["template"]["spec"]["containers"]
    assert (deployment["replicas"], container["args"]) == (2, ["filter"])
    assert all("value" in each for each in container["env"])
    assert items["PodDisruptionBudget", "tollgate-filter"]["spec"]["maxUnavailable"] == 1
    [port] = items["Service", "tollgate-filter"]["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (9030, "http")
    environ = {each["name"].removeprefix("TOLLGATE_").lower(): each["value"] for each in container["env"]}
    assert FilterSettings.model_validate(environ).filter_mlflow_url == "http://mlflow.mlflow:5000"


def test_what_asks_gitlab_has_its_tokens_and_postgres_and_no_more() -> None:
    items = {
        _identity(item): item
        for item in template(*GITLAB, "--set", "gitlab.database.name=less,gitlab.database.key=url")
    }
    [container] = items["Deployment", "tollgate-gitlab"]["spec"]["template"]["spec"]["containers"]
    secrets = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in container["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert secrets == {
        "TOLLGATE_DATABASE_URL": {"name": "less", "key": "url"},
        "TOLLGATE_GITLAB_TOKEN": {"name": "tollgate-gitlab", "key": "token"},
        "TOLLGATE_GITLAB_HOOK_TOKEN": {"name": "tollgate-gitlab", "key": "hook-token"},
    }
    assert _variables(container)["TOLLGATE_GITLAB_LISTEN"] == "0.0.0.0:9030"
    [port] = items["Service", "tollgate-gitlab"]["spec"]["ports"]
    assert port["port"] == 9030
    assert {kind for kind, name in items if name == "tollgate-gitlab"} >= {"ServiceAccount", "PodDisruptionBudget"}
    assert not [name for _, name in map(_identity, template()) if "gitlab" in name]


def test_predictions_are_moved_beside_each_triton() -> None:
    items = template(*PREDICTIONS, "--set", "triton.variants.canary.replicas=1")
    tritons = [pod for pod in pods(items) if pod["metadata"]["labels"]["app"] == "tollgate-triton"]
    assert len(tritons) == 2
    for spec in (pod["spec"] for pod in tritons):
        [mover], [server] = spec["initContainers"], spec["containers"]
        places = [_variables(each)["TOLLGATE_PREDICTIONS"] for each in (mover, server)]
        assert places == ["/predictions/files"] * 2
        assert {"name": "predictions", "mountPath": "/predictions"} in mover["volumeMounts"]
        assert {"name": "predictions", "mountPath": "/predictions"} in server["volumeMounts"]
        assert mover["restartPolicy"] == "Always", "it ends after Triton"
        assert "readinessProbe" not in mover, "without Postgres models go on"
        assert not {"TOLLGATE_DATABASE_URL", "TOLLGATE_REDIS_URL", "TOLLGATE_POLICY"} & {*_variables(server)}
    assert "predictions" not in json.dumps([pod["spec"] for pod in pods(template())])


def test_what_moves_predictions_waits_until_no_file_is_left(tmp_path: Path) -> None:
    [deployment] = [item for item in template(*PREDICTIONS) if "triton-stable" in item["metadata"]["name"]]
    [mover] = deployment["spec"]["template"]["spec"]["initContainers"]
    *shell, command = mover["lifecycle"]["preStop"]["exec"]["command"]
    command = command.replace("/predictions/files", str(tmp_path)).replace("sleep 6", "true")
    waiting = tmp_path / "1@sentiment@1-2@3.jsonl"
    waiting.touch()
    (tmp_path / "other").touch()
    with subprocess.Popen([*shell, command]) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1.5)
        waiting.unlink()
        assert running.wait(10) == 0


def _variables(container: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def _identity(item: Object) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]
