"""A front end whose version v2 asks for a variant: k8s/examples/front-end.yaml, in sidecars of both versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from msgspec.structs import replace

from ext_authz.policy.model import Override
from ext_authz.policy.rights import Has, Trait
from ext_authz.render.clusters import envoy_address
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Json
from ext_authz.render.filters import named
from ext_authz.render.istio.objects import objects
from tests.e2e.render.test_ambient import sent as discovered
from tests.e2e.render.test_tls import MESSAGE, REST, RPC
from tests.e2e.render.world import MESH, World, running_envoy, running_world, sent
from tests.e2e.server.certificates import Authority
from tests.mesh.gateway import ROOT
from tests.mesh.kubernetes import Pod
from tests.mesh.sidecars import running_sidecars
from tests.services import free_port
from tests.unit.render.policies import CANARY, EVERYDAY, of_kinds

HOST = "models.example.com"
VERSIONS = ("v1", "v2")
OVERRIDE = Override("x-experiment", {"canary": "canary"}, Has(Trait.PRINCIPAL, frozenset({"entitled"})))
EXPERIMENT = replace(CANARY, weights={"stable": 100, "canary": 0}, override=OVERRIDE)
POLICY = of_kinds(*EVERYDAY, experiments={"sentiment": EXPERIMENT})

pytestmark = pytest.mark.mesh


@dataclass(frozen=True)
class FrontEnd:
    world: World
    ports: Mapping[str, int]
    """Of the sidecars, by version."""
    discovery: str


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    gateway, sidecars, tls = (tmp_path_factory.mktemp(name) for name in ("gateway", "sidecars", "tls"))
    ports, https = {version: free_port() for version in VERSIONS}, free_port()
    pods = {
        port: Pod(
            name=f"front-end-{version}",
            service="front-end/front-end",
            address=f"127.0.0.{number}",
            ports={},
            labels={"version": version, "redirected": "no"},
        )
        for number, (version, port) in enumerate(ports.items(), 10)
    }
    authority = Authority(tls, "root")
    with ExitStack() as stack:
        world = stack.enter_context(running_world("istio", POLICY, gateway))
        ends = _ends_tls(https, world.port, *authority.issue("gateway", host=HOST))
        stack.enter_context(running_envoy(ends, Endpoints(listen=Address(LOOPBACK, https)), tls))
        provider = objects(POLICY, MESH)[0]
        example = _example(https, authority.certificate)
        discovery = stack.enter_context(running_sidecars(pods, provider, example, sidecars))
        yield FrontEnd(world, ports, f"{LOOPBACK}:{discovery}")


def _example(port: int, ca: Path) -> list[Json]:
    """With the gateway at another place, and a certificate by another authority."""
    routes, entry, rule = yaml.safe_load_all((ROOT / "k8s" / "examples" / "front-end.yaml").read_text())
    entry["spec"]["ports"][0]["targetPort"] = port
    entry["spec"]["endpoints"] = [{"address": LOOPBACK}]
    rule["spec"]["trafficPolicy"]["tls"]["caCertificates"] = str(ca)
    return [routes, entry, rule]


def _ends_tls(port: int, to: int, certificate: Path, key: Path) -> Json:
    """In front of a gateway that serves plain HTTP here."""
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    tls = {"common_tls_context": {"tls_certificates": [pair], "alpn_protocols": ["h2"]}}
    proxy = {"stat_prefix": "gateway", "cluster": "gateway"}
    inspector = named("envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector", {})
    chain = {
        "filter_chain_match": {"server_names": [HOST]},
        "filters": [named("envoy.filters.network.tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", proxy)],
        "transport_socket": named("envoy.transport_sockets.tls", "transport_sockets.tls.v3.DownstreamTlsContext", tls),
    }
    address = envoy_address(Address(LOOPBACK, port))
    listener = {"address": address, "listener_filters": [inspector], "filter_chains": [chain]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": envoy_address(Address(LOOPBACK, to))}}]}]
    cluster = {"name": "gateway", "load_assignment": {"cluster_name": "gateway", "endpoints": endpoints}}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@pytest.mark.parametrize("forged", [[], ["canary"], ["stable", "canary"]], ids=str)
@pytest.mark.parametrize(
    ("version", "user", "served"),
    [("v2", "entitled", "canary"), ("v2", "other", "stable"), ("v1", "entitled", "stable"), ("v1", "other", "stable")],
)
def test_v2_alone_asks_and_the_permission_decides(
    front: FrontEnd, version: str, user: str, served: str, forged: list[str]
) -> None:
    """`forged`: what the front end passes on from its own callers."""
    headers = [("host", HOST), ("authorization", f"Bearer {user}"), *(("x-experiment", value) for value in forged)]
    answer = httpx.post(f"http://{LOOPBACK}:{front.ports[version]}{REST}", headers=headers, json={})
    assert answer.json()["model"] == served
    asked = sent(front.world.authorizer.asked[-1]).get("x-experiment", [])
    assert asked == (["canary"] if version == "v2" else [])


@pytest.mark.parametrize(("version", "served"), [("v2", b"canary"), ("v1", b"stable")])
def test_grpc_too(front: FrontEnd, version: str, served: bytes) -> None:
    options = [("grpc.default_authority", HOST)]
    with grpc.insecure_channel(f"{LOOPBACK}:{front.ports[version]}", options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(RPC)
        metadata = (("authorization", "Bearer entitled"), ("x-experiment", "canary"))
        assert call(MESSAGE, metadata=metadata, timeout=10) == served


@pytest.mark.parametrize(
    ("version", "change"),
    [("v1", b"b\x0cx-experimentr\x06others"), ("v2", b"\n\x0cx-experiment\x12\x06canary\x18\x02r\x02v2")],
    ids=VERSIONS,
)
def test_istiod_gives_the_same_to_sidecars_that_traffic_is_redirected_to(
    front: FrontEnd, version: str, change: bytes
) -> None:
    """The header is removed, or set in place of others; none of these sidecars runs here."""
    node = f"sidecar~127.0.0.20~redirected-{version}.front-end~front-end.svc.cluster.local"
    about = {"NAMESPACE": "front-end", "CLUSTER_ID": "Kubernetes", "LABELS": {"app": "front-end", "version": version}}
    routes = discovered(front.discovery, node, "envoy.config.route.v3.RouteConfiguration", names=["80"], **about)["80"]
    assert routes.count(b"x-experiment") == routes.count(change) == 1
