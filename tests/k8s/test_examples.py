"""k8s/examples/ before a real API server that has the definitions of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from applications.sentiment.settings import Settings, loaded
from tests.k8s.api_server import RESTRICTED, ApiServer
from tests.k8s.programs import ROOT, TOOLS, objects, pods
from tests.mesh.world.network import run

_VALUES = ("values-", "prometheus-adapter")
EXAMPLES = sorted(path for path in (ROOT / "k8s" / "examples").glob("*.yaml") if not path.name.startswith(_VALUES))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_the_example(server: ApiServer, example: Path) -> None:
    items = objects(example.read_text())
    for namespace in {item["metadata"]["namespace"] for item in items}:
        server.create_namespace(namespace, **RESTRICTED)
    taken = server.apply(items + pods(items), "--dry-run=server")
    assert taken.count("serverside-applied") == len(items + pods(items))


def test_istio_takes_what_is_for_it() -> None:
    run(TOOLS / "istioctl", "validate", "-f", ROOT / "k8s" / "examples" / "front-end.yaml")


def test_the_sentiment_application_is_where_the_gateway_looks_for_it(tmp_path: Path) -> None:
    """Its settings are ones that it takes, and what the policy renders selects its pod and names its port."""
    deployment, service, network = objects((ROOT / "k8s" / "examples" / "sentiment-application.yaml").read_text())
    [pod] = pods([deployment])
    [container] = pod["spec"]["containers"]
    given = {each["name"]: each.get("value", "postgresql://u@h/d") for each in container["env"]}
    settings = loaded(Settings, given)
    assert (settings.listen, settings.feedback_days) == ("0.0.0.0:9020", 180)
    values = yaml.safe_load((ROOT / "k8s" / "examples" / "values-sentiment-application.yaml").read_text())
    policy = tmp_path / "policy.yaml"
    policy.write_text(values["policy"]["files"]["policy.yaml"])
    assert values["console"]["settings"]["TOLLGATE_CONSOLE_SIGNAL_CLIENTS"] == settings.client_id
    where = f"{settings.client_id}={service['metadata']['namespace']}/{service['metadata']['name']}:9020"
    run("tollgate", "policy", "render", "istio", policy, "--upstream", where, "--out", tmp_path / "rendered")
    rendered = [item for path in (tmp_path / "rendered").glob("*.yaml") for item in objects(path.read_text())]
    locks = [item for item in rendered if item["metadata"]["namespace"] == "applications"]
    assert {"AuthorizationPolicy", "PeerAuthentication"} <= {item["kind"] for item in locks}
    labels = pod["metadata"]["labels"]
    selectors = [item["spec"]["selector"]["matchLabels"] for item in locks if "selector" in item["spec"]]
    selectors += [service["spec"]["selector"], network["spec"]["podSelector"]["matchLabels"]]
    assert all(selector.items() <= labels.items() for selector in selectors)
    gateways = network["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"].values()
    assert set(gateways) <= {item["metadata"]["namespace"] for item in rendered}
