"""Services of the mesh, and hosts outside of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from ext_authz.policy.model import Policy
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh, Workload
from ext_authz.render.istio.routes import applications


def services(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Manifest]:
    """Of all that is called, for installations without the Helm chart."""
    if not mesh.services:
        return
    rest, grpc = mesh.triton_ports
    answer = "every request would be answered with 503"
    yield _service(39, mesh.authorizer, {"grpc": mesh.authorizer_port}, "the authorizer", answer)
    yield _service(58, mesh.triton, {"http": rest, "grpc": grpc}, "Triton", answer)
    if policy.tokens:
        http, rpc = mesh.console_ports
        yield _service(59, mesh.console, {"http": http, "grpc": rpc}, "the console", "its gRPC calls would fail")
    for name in applications(exposed, mesh):
        workload, port = mesh.upstreams[name]
        why = f"How the application {name} is found. Istio takes the protocol of the port from its name."
        yield _named(59, workload, {"http": port}, why)
    if mesh.usage_worker:
        ports = {"grpc-access-log": mesh.usage_worker_port}
        yield _service(76, mesh.usage_worker, ports, "the usage worker", "its access log would be lost")


def _service(number: int, workload: Workload, ports: dict[str, int], what: str, otherwise: str) -> Manifest:
    why = (
        f"How {what} is found. Istio takes the protocol of a port from its name: with another name than "
        f"{' and '.join(ports)} the gateway would not call it by gRPC, and {otherwise}. "
        "The Helm chart has the same Service; render it only without the chart."
    )
    return _named(number, workload, ports, why)


def _named(number: int, workload: Workload, ports: dict[str, int], why: str) -> Manifest:
    spec = {
        "selector": dict(workload.labels),
        "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports.items()],
    }
    return manifest(number, "Service", workload.name, workload.namespace, spec, why=why)


def key_servers(policy: Policy, mesh: Mesh) -> Iterator[Manifest]:
    """One per namespace, host and port, whichever issuers share it."""
    providers = [issuer for issuer in policy.issuers if not issuer.asap]
    urls = [(mesh.authorizer.namespace, issuer.jwks_url) for issuer in providers]
    for issuer in policy.issuers:
        urls += [(mesh.authorizer.namespace, url) for url in (issuer.asap.repositories if issuer.asap else ())]
    if policy.tokens:
        urls.append((mesh.authorizer.namespace, policy.tokens.issuer.jwks_url))
        urls += [(mesh.console.namespace, url) for each in providers for url in (each.issuer, each.jwks_url)]
    for namespace, host, tls, port in dict.fromkeys((namespace, *_address(url)) for namespace, url in urls):
        if _is_outside(host, mesh):
            yield _key_server(namespace, host, port, mesh, tls=tls)


def _address(text: str) -> tuple[str, bool, int]:
    """Host, whether by TLS, and port."""
    url = urlsplit(text)
    tls = url.scheme == "https"
    return url.hostname or "", tls, url.port or (443 if tls else 80)


def _is_outside(host: str, mesh: Mesh) -> bool:
    """Not a Service of the cluster, which the mesh knows, nor an address, for which a ServiceEntry has no host."""
    if host == "localhost" or "." not in host or host.endswith((".svc", f".svc.{mesh.cluster_domain}")):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _key_server(namespace: str, host: str, port: int, mesh: Mesh, *, tls: bool) -> Manifest:
    spec = {
        "hosts": [host],
        "ports": [{"number": port, "name": "https" if tls else "http", "protocol": "HTTPS" if tls else "HTTP"}],
        "location": "MESH_EXTERNAL",
        "resolution": "DNS",
        "exportTo": ["."],
    }
    why = (
        f"Keys of issuers are fetched from {host}, and the console signs people in there. In a mesh whose sidecars let "
        "out only what is registered (outboundTrafficPolicy REGISTRY_ONLY), no token could be verified without this. "
        "Certificates are verified by the program itself, and only its namespace can use the entry."
    )
    name = f"{NAME}-keys-{host.replace('.', '-')}" + ("" if port in (80, 443) else f"-{port}")
    name += "" if namespace == mesh.authorizer.namespace else "-console"
    return manifest(52, "ServiceEntry", name, namespace, spec, why=why)
