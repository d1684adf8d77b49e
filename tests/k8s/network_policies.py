"""Which connections NetworkPolicies allow, after the rules of their documentation: nothing here enforces them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.k8s.programs import Object


@dataclass(frozen=True)
class Peer:
    """A pod, or something outside of the cluster, which has no namespace."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def allows(policies: Iterable[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Both have to agree: the policies of the source to what leaves it, those of the target to what enters."""
    policies = list(policies)
    out = _permits(policies, source, "Egress", target, port, protocol)
    return out and _permits(policies, target, "Ingress", source, port, protocol)


def _permits(policies: list[Object], pod: Peer, way: str, peer: Peer, port: int, protocol: str) -> bool:
    mine = [policy for policy in policies if way in policy["spec"]["policyTypes"] and _concerns(policy, pod)]
    rules = [rule for policy in mine for rule in policy["spec"].get(way.lower(), [])]
    key = "to" if way == "Egress" else "from"
    return not mine or any(
        _has_port(rule, port, protocol)
        and (key not in rule or any(_is(each, peer, pod.namespace) for each in rule[key]))
        for rule in rules
    )


def _concerns(policy: Object, pod: Peer) -> bool:
    return policy["metadata"]["namespace"] == pod.namespace and _selects(policy["spec"]["podSelector"], pod.labels)


def _has_port(rule: Object, port: int, protocol: str) -> bool:
    wanted = [(each["port"], each.get("protocol", "TCP")) for each in rule["ports"]]
    return (port, protocol) in wanted


def _is(wanted: Object, peer: Peer, here: str) -> bool:
    assert wanted.keys() <= {"podSelector", "namespaceSelector"}, wanted
    if not peer.namespace:
        return False
    if "namespaceSelector" in wanted:
        labels = {"kubernetes.io/metadata.name": peer.namespace}
        return _selects(wanted["namespaceSelector"], labels) and _selects(wanted.get("podSelector", {}), peer.labels)
    return peer.namespace == here and _selects(wanted["podSelector"], peer.labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}, selector
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "NotIn", each
        if labels.get(each["key"]) in each["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
