"""What every pod of the chart has: time to end, a spread, requests, and no token."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.k8s.programs import Object, pods, template

_SLOW = ("--set", "authorizer.drain.delay=15,authorizer.drain.timeout=300")


@pytest.mark.parametrize("options", [(), _SLOW], ids=["default", "slow"])
def test_the_authorizer_drains_before_it_is_killed(options: tuple[str, ...]) -> None:
    pod = _pods(*options)["tollgate"]
    [container] = pod["spec"]["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    drain = int(values["TOLLGATE_DRAIN_DELAY"]) + int(values["TOLLGATE_DRAIN_TIMEOUT"])
    assert drain <= _drain_of_the_sidecar(pod) < pod["spec"]["terminationGracePeriodSeconds"]
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= int(values["TOLLGATE_DRAIN_DELAY"])


def test_triton_answers_what_it_has_before_it_is_killed() -> None:
    pod = _pods()["tollgate-triton-stable"]
    [container] = pod["spec"]["containers"]
    [timeout] = (int(found[1]) for each in container["args"] if (found := re.match("--exit-timeout-secs=(.*)", each)))
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert timeout + int(pause) <= _drain_of_the_sidecar(pod) < pod["spec"]["terminationGracePeriodSeconds"]


def test_a_disruption_and_a_failed_node_leave_replicas() -> None:
    items = template()
    found = {pod["metadata"]["name"]: pod for pod in pods(items)}
    deployed = [found[item["metadata"]["name"]] for item in items if item["kind"] == "Deployment"]
    budgets = [item["spec"] for item in items if item["kind"] == "PodDisruptionBudget"]
    for pod in deployed:
        labels = pod["metadata"]["labels"]
        assert [each["maxUnavailable"] for each in budgets if _selects(each["selector"], labels)] == [1]
        spread = pod["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(_selects(each["labelSelector"], labels) for each in spread)


def test_no_pod_and_no_account_has_a_token() -> None:
    items = template()
    holders = [pod["spec"] for pod in pods(items)] + [item for item in items if item["kind"] == "ServiceAccount"]
    assert len(holders) == 5 + 3
    assert all(holder["automountServiceAccountToken"] is False for holder in holders)


def test_every_container_has_what_a_quota_counts() -> None:
    for pod in pods(template()):
        for container in pod["spec"]["containers"]:
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def _pods(*options: str) -> dict[str, Object]:
    return {pod["metadata"]["name"]: pod for pod in pods(template(*options))}


def _drain_of_the_sidecar(pod: Object) -> int:
    config = yaml.safe_load(pod["metadata"]["annotations"]["proxy.istio.io/config"])
    return int(config["terminationDrainDuration"].removesuffix("s"))


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())
