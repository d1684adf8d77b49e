"""Ambient mode, as far as istiod's translation: what it sends to ztunnel and to the waypoint. Neither runs here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from ipaddress import IPv4Address
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from msgspec.structs import replace

from ext_authz.render.gateway_api.objects import objects
from ext_authz.render.istio.manifest import GATEWAY_API
from ext_authz.render.istio.mesh import WAYPOINT, Mesh
from tests.mesh.gateway import running_discovery
from tests.mesh.kubernetes import Pod
from tests.services import free_port, wait_for
from tests.unit.render.policies import EVERYDAY, of_kinds

pytestmark = pytest.mark.mesh

_GATEWAY = "cluster.local/ns/istio-ingress/sa/tollgate-istio"
_WAYPOINT = f"cluster.local/ns/models/sa/{WAYPOINT}"
_ADDRESS = IPv4Address("10.96.0.99")
"""Of the waypoint, as istiod would write it when the waypoint runs."""
_ZTUNNEL = "ztunnel~127.0.0.9~ztunnel.istio-system~istio-system.svc.cluster.local"
_AUTHORIZATION = "istio.security.Authorization"
_FIELDS = {
    "Node": [("id", 1, ""), ("metadata", 3, ".google.protobuf.Struct")],
    "Request": [("node", 1, ".ambient.Node"), ("type_url", 2, ""), ("resource_names_subscribe", 3, "")],
    "Resource": [("name", 3, ""), ("resource", 2, ".google.protobuf.Any")],
    "Response": [("resources", 2, ".ambient.Resource"), ("type_url", 4, "")],
}
"""What is used here of Envoy's incremental discovery."""
_SEVERAL = ("resources", "resource_names_subscribe")


@cache
def _messages() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="ambient.proto", package="ambient", syntax="proto3")
    file.dependency.extend([any_pb2.DESCRIPTOR.name, struct_pb2.DESCRIPTOR.name])
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, of in fields:
            label = kinds.LABEL_REPEATED if field in _SEVERAL else kinds.LABEL_OPTIONAL
            kind = kinds.TYPE_MESSAGE if of else kinds.TYPE_STRING
            message.field.add(name=field, number=number, label=label, type=kind, type_name=of or None)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ambient.{name}")) for name in _FIELDS}


@pytest.fixture(scope="module")
def discovery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mesh = Mesh(gateway_api="tollgate", gateway_account="tollgate-istio", tls_secret="", ambient=True, services=True)
    mesh = replace(mesh, request_authentication=True)
    label = {f"{GATEWAY_API}/gateway-name": WAYPOINT}
    ports = {"http": free_port(), "grpc": free_port()}
    pods = [
        Pod(name="triton", service="models/triton", address="127.0.0.10", ports=ports),
        Pod(name="waypoint", service=f"models/{WAYPOINT}", address="127.0.0.11", ports={"mesh": 15008}, labels=label),
        Pod(name="tollgate", service="tollgate/tollgate", address="127.0.0.12", ports={"grpc": 9000}),
    ]
    rendered = objects(of_kinds(*EVERYDAY), mesh)
    directory = tmp_path_factory.mktemp("ambient")
    running = {"status": {"addresses": [{"type": "IPAddress", "value": str(_ADDRESS)}]}}
    rendered = [
        replace(one, content=one.content | running) if one.content.get("kind") == "Gateway" else one for one in rendered
    ]
    with running_discovery(rendered, pods, directory, PILOT_ENABLE_AMBIENT="true") as port:
        wait_for(lambda: _is_ready(f"127.0.0.1:{port}"))
        yield f"127.0.0.1:{port}"


def _is_ready(discovery: str) -> bool:
    try:
        return bool(sent(discovery, _ZTUNNEL, _AUTHORIZATION, NAMESPACE="istio-system", CLUSTER_ID="Kubernetes"))
    except grpc.RpcError as not_yet:
        if "not ready" in str(not_yet):
            return False
        raise


def sent(
    discovery: str, node: str, type_url: str, *, names: Sequence[str] = (), **metadata: object
) -> dict[str, bytes]:
    """By their names: these, or all."""
    messages = _messages()
    about = {"type_url": f"type.googleapis.com/{type_url}", "resource_names_subscribe": names}
    request = messages["Request"](node={"id": node, "metadata": {}}, **about)
    request.node.metadata.update(metadata)
    with grpc.insecure_channel(discovery) as channel:
        call: grpc.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=messages["Request"].SerializeToString,
            response_deserializer=messages["Response"].FromString,
        )
        answers = call(iter([request]), timeout=20)
        return {one.name: one.resource.value for one in next(answers).resources}


def test_ztunnel_lets_only_the_gateway_and_the_waypoint_reach_the_pods(discovery: str) -> None:
    """Without a waypoint, calls come from accounts of callers: none of them is in the list."""
    policies = sent(discovery, _ZTUNNEL, _AUTHORIZATION, NAMESPACE="istio-system", CLUSTER_ID="Kubernetes")
    for name in ("models/triton-gateway-only", "tollgate/tollgate-gateway-only"):
        principals = set(re.findall(rb"cluster[.]local/ns/[a-z-]+/sa/[a-z-]+", policies[name]))
        assert principals == {_GATEWAY.encode(), _WAYPOINT.encode()}


def test_the_policy_is_bound_to_the_pods_and_the_service_to_the_waypoint(discovery: str) -> None:
    addresses = sent(discovery, _ZTUNNEL, "istio.workload.Address", NAMESPACE="istio-system", CLUSTER_ID="Kubernetes")
    pod = addresses["Kubernetes//Pod/models/triton"]
    assert b"models/triton-gateway-only" in pod
    assert b"istio-system/istio_converted_static_strict" in pod, "in plain text there is no account"
    through = [name for name, value in addresses.items() if name.endswith(".local") and _ADDRESS.packed in value]
    assert through == ["models/triton.models.svc.cluster.local"]


def test_the_waypoint_has_the_check_and_our_settings(discovery: str) -> None:
    node = f"waypoint~127.0.0.11~{WAYPOINT}.models~models.svc.cluster.local"
    labels = {f"{GATEWAY_API}/gateway-name": WAYPOINT}
    about: dict[str, Any] = {
        "NAMESPACE": "models",
        "CLUSTER_ID": "Kubernetes",
        "LABELS": labels,
        "SERVICE_ACCOUNT": WAYPOINT,
    }
    listeners = sent(discovery, node, "envoy.config.listener.v3.Listener", **about)
    calls = listeners["main_internal"]
    order = [
        "filters.http.header_mutation",
        "tollgate.target",
        "tollgate.token_copy",
        "filters.http.ext_authz.v3.ExtAuthz",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        "filters.http.buffer",
        "tollgate.no_token_copy",
    ]
    places = [calls.index(part.encode()) for part in order]
    assert places == sorted(places)
    assert b"x-model-variant" in calls, "removed from requests"
    assert b"outbound|9000||tollgate.tollgate.svc.cluster.local" in calls
    # A tunnel has no end to wait for, and carries the requests of many callers.
    assert not [name for name, value in listeners.items() if b"tollgate." in value and name != "main_internal"]
