"""The NetworkPolicies of the chart against what the stack connects to. No network enforces them here."""

from __future__ import annotations

from itertools import product

from tests.k8s.network_policies import Peer, allows
from tests.k8s.programs import ROOT, Object, objects, pods, template
from tests.mesh.world.network import run

_PORTS = (
    53,
    80,
    443,
    4317,
    5000,
    5432,
    6379,
    8000,
    8001,
    8002,
    9000,
    9001,
    9002,
    9003,
    9030,
    9093,
    9010,
    9011,
    9012,
    9030,
    15008,
    15012,
    15020,
)
_ELSEWHERE = {
    "outside": Peer(),
    "gateway": Peer("istio-ingress", {"istio": "ingress"}),
    "prometheus": Peer("monitoring"),
    "istiod": Peer("istio-system", {"app": "istiod"}),
    "stranger": Peer("elsewhere", {"app": "tollgate", "app.kubernetes.io/instance": "tollgate"}),
    "neighbour": Peer("tollgate", {"app": "neighbour"}),
}
_ANYWHERE = {*_ELSEWHERE} - {"neighbour"}
_OURS = {"tollgate", "tollgate-usage-worker", "tollgate-migration", "tollgate-test"}
_TRITON = {"tollgate-triton-stable"}
# Stores may be anywhere: what a pod may connect to is said by the port.
_LEAVES = {*product(_OURS, _ANYWHERE, (53, 443, 5432, 6379, 15012)), *product(_TRITON, _ANYWHERE, (53, 15012))}
_ENTERS = {
    ("gateway", "tollgate", 9000),
    ("gateway", "tollgate-usage-worker", 9003),
    ("gateway", "tollgate-triton-stable", 8000),
    ("gateway", "tollgate-triton-stable", 8001),
    ("tollgate-test", "tollgate", 9001),
    ("tollgate-test", "tollgate", 15020),
    ("prometheus", "tollgate-triton-stable", 8002),
    ("prometheus", "tollgate-triton-stable", 15020),
    *product(["prometheus"], _OURS, (9001, 9002, 15020)),
}


def test_nothing_enters_or_leaves_but_what_the_stack_needs() -> None:
    items = template()
    assert _allowed(items, _pods(items) | _ELSEWHERE) == _LEAVES | _ENTERS


def test_the_console_is_reached_by_the_gateway_and_for_its_keys() -> None:
    items = template("--values", ROOT / "k8s" / "examples" / "values-console.yaml")
    peers = _pods(items) | _ELSEWHERE
    of_console = {each for each in _allowed(items, peers) if each[1] == "tollgate-console"}
    assert of_console == {
        ("gateway", "tollgate-console", 9010),
        ("gateway", "tollgate-console", 9011),
        ("tollgate", "tollgate-console", 9010),
        *product(["prometheus"], ["tollgate-console"], (9001, 9002, 9012, 15020)),
    }
    leaves = {(to, port) for one, to, port in _allowed(items, peers) if one == "tollgate-console"}
    assert leaves == {*product(_ANYWHERE, (53, 443, 5432, 6379, 15012))}


def test_the_publisher_alone_reaches_kafka() -> None:
    items = template("--values", ROOT / "k8s" / "examples" / "values-kafka.yaml")
    allowed = _allowed(items, _pods(items) | _ELSEWHERE)
    leaves = {(to, port) for one, to, port in allowed if one == "tollgate-publisher"}
    assert leaves == {*product(_ANYWHERE, (53, 443, 5432, 6379, 9093, 15012))}
    assert {one for one, _, port in allowed if port == 9093} == {"tollgate-publisher"}
    assert {one for one, to, _ in allowed if to == "tollgate-publisher"} == {"prometheus"}


def test_the_filter_is_reached_by_the_gateway_and_reaches_mlflow() -> None:
    """Who reaches it can say that they are anybody."""
    items = template("--values", ROOT / "k8s" / "examples" / "values-mlflow.yaml")
    allowed = _allowed(items, _pods(items) | _ELSEWHERE)
    assert {(one, port) for one, to, port in allowed if to == "tollgate-filter" and port == 9030} == {("gateway", 9030)}
    assert {one for one, to, _ in allowed if to == "tollgate-filter"} == {"gateway", "prometheus"}
    leaves = {(to, port) for one, to, port in allowed if one == "tollgate-filter"}
    assert leaves == {*product(_ANYWHERE, (53, 5000, 15012))}


def test_webhooks_come_from_the_namespace_that_is_named_and_from_nowhere_else() -> None:
    example = ROOT / "k8s" / "examples" / "values-gitlab.yaml"
    metrics = {*product(["prometheus"], (9001, 9002, 15020))}
    for namespace, enters in (("gitlab", {("gitlab", 9030)}), ("", set())):
        items = template("--values", example, "--set", f"gitlab.webhookNamespace={namespace}")
        allowed = _allowed(items, _pods(items) | _ELSEWHERE | {"gitlab": Peer("gitlab", {"app": "webservice"})})
        assert {(one, port) for one, to, port in allowed if to == "tollgate-gitlab"} == enters | metrics
        leaves = {(to, port) for one, to, port in allowed if one == "tollgate-gitlab"}
        assert leaves == {*product(_ANYWHERE | {"gitlab"}, (53, 443, 5432, 6379, 15012))}


def test_what_moves_predictions_reaches_the_stores() -> None:
    items = template("--values", ROOT / "k8s" / "examples" / "values-predictions.yaml")
    allowed = _allowed(items, _pods(items) | _ELSEWHERE)
    leaves = {(to, port) for one, to, port in allowed if one == "tollgate-triton-stable"}
    assert leaves == {*product(_ANYWHERE, (53, 443, 5432, 6379, 15012))}
    assert {(one, port) for one, to, port in allowed if to == "tollgate-triton-stable"} == {
        ("gateway", 8000),
        ("gateway", 8001),
        *product(["prometheus"], (8002, 9002, 15020)),
    }


def test_names_are_resolved() -> None:
    items = template()
    for pod in _pods(items).values():
        assert allows(_policies(items), pod, Peer("kube-system", {"k8s-app": "kube-dns"}), 53, "UDP")


def test_without_monitoring_nobody_reads_metrics() -> None:
    items = template("--values", ROOT / "k8s" / "examples" / "values-no-mesh.yaml")
    peers = _pods(items) | _ELSEWHERE | {"edge": Peer("edge")}
    enters = {each for each in _allowed(items, peers) if each[1] in _OURS}
    assert enters == {
        ("edge", "tollgate", 9000),
        ("edge", "tollgate-usage-worker", 9003),
        ("tollgate-test", "tollgate", 9001),
        ("tollgate-test", "tollgate", 15020),
    }


def test_a_release_does_not_reach_another_in_its_namespace() -> None:
    items = template(release="x") + template(release="y")
    reached = {(one[0], other[0]) for one, other, _ in _allowed(items, _pods(items)) if one[0] != other[0]}
    assert reached == set()


def test_models_are_fetched_from_s3_by_triton_alone_in_its_namespace() -> None:
    items = template("--values", ROOT / "k8s" / "examples" / "values-gpu.yaml")
    triton = _pods(items)["tollgate-triton-canary"]
    assert triton.namespace == "models"
    assert allows(_policies(items), triton, Peer(), 443)
    assert not allows(_policies(items), Peer("models"), triton, 8001)
    assert not allows(_policies(items), Peer("tollgate"), triton, 8001)


def test_the_stores_in_the_namespace_are_reached_by_tollgate_alone() -> None:
    _assert_stores(
        objects(run("kubectl", "kustomize", ROOT / "k8s" / "overlays" / "local")), postgres=5432, valkey=6379
    )
    example = objects((ROOT / "k8s" / "examples" / "cloudnative-pg.yaml").read_text())
    database = Peer("tollgate", {"cnpg.io/cluster": "tollgate-db"})
    items = template() + example
    assert all(allows(_policies(items), _pods(items)[name], database, 5432) for name in _OURS)
    assert allows(_policies(items), database, database, 5432)
    assert allows(_policies(items), Peer("cnpg-system"), database, 8000)
    assert not allows(_policies(items), Peer("tollgate", {"app": "neighbour"}), database, 5432)
    assert not allows(_policies(items), Peer("elsewhere"), database, 5432)


def _assert_stores(items: list[Object], **ports: int) -> None:
    found = _pods(items)
    for store, port in ports.items():
        for name in ("tollgate", "tollgate-usage-worker"):
            assert allows(_policies(items), found[name], found[store], port)
        for stranger in (Peer("elsewhere"), Peer("tollgate", {"app": "neighbour"}), found["tollgate-triton-stable"]):
            assert not allows(_policies(items), stranger, found[store], port)


def _allowed(items: list[Object], peers: dict[str, Peer]) -> set[tuple[str, str, int]]:
    """By the names of both peers, where one of them at least is a pod of the chart."""
    policies, ours = _policies(items), _pods(items).keys()
    return {
        (one, other, port)
        for one, other, port in product(peers, peers, _PORTS)
        if ours & {one, other} and one != other and allows(policies, peers[one], peers[other], port)
    }


def _policies(items: list[Object]) -> list[Object]:
    return [item for item in items if item["kind"] == "NetworkPolicy"]


def _pods(items: list[Object]) -> dict[str, Peer]:
    return {
        pod["metadata"]["name"]: Peer(pod["metadata"]["namespace"], pod["metadata"]["labels"]) for pod in pods(items)
    }
