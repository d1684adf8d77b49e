"""Envoy's clusters: the authorizer, the console, and Triton's two servers, once per variant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ext_authz.render.console import IDLE_SECONDS
from ext_authz.render.endpoints import (
    CALLS_PER_CONNECTION,
    CONNECTION_BYTES,
    Address,
    Endpoints,
    Json,
    Pipe,
    Timeouts,
    Triton,
    duration,
)
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.filters import EXTENSIONS
from ext_authz.render.tls import PLAIN, TlsOfAll, used


def clusters(exposed: ExposedPaths, endpoints: Endpoints, timeouts: Timeouts, tls: TlsOfAll = PLAIN) -> list[Json]:
    buffer_bytes = timeouts.grpc_bytes  # of an answer, or of a part of a stream, for a slow reader
    return [
        _authorizer(endpoints.authorizer, buffer_bytes, timeouts.checks)
        | used(tls.authorizer, endpoints.authorizer, http2=True),
        *_usage_worker(endpoints.usage_worker, tls),
        *(_console(endpoints) if exposed.console else ()),
        *(_upstream(name, endpoints.upstreams[name]) for name in exposed.upstreams if name in endpoints.upstreams),
        *_triton(endpoints.triton, "", buffer_bytes, tls),
        *(
            cluster
            for variant in exposed.variants
            for cluster in _triton(endpoints.variants.get(variant, endpoints.triton), variant, buffer_bytes, tls)
        ),
    ]


def triton_cluster(protocol: str, variant: str = "") -> str:
    """The name of one: `triton_grpc`, `triton_http_canary`."""
    return "_".join(filter(None, ("triton", protocol, variant)))


def _authorizer(where: Address, buffer_bytes: int, checks: int) -> Json:
    """Probed twice a second: one of several that drains or cannot decide gets no checks. When all fail their probes,
    all get checks (Envoy's panic mode), because an overloaded one refuses probes too."""
    check: Json = {"timeout": "1s", "interval": "0.5s", "no_traffic_interval": "0.5s", "grpc_health_check": {}}
    check |= {"unhealthy_threshold": 2, "healthy_threshold": 1}
    cluster = _cluster("authorizer", where, buffer_bytes) | _http(2, max_requests_per_connection=CALLS_PER_CONNECTION)
    # Retries: all that a killed worker was answering.
    most = {"max_pending_requests": checks, "max_requests": checks, "max_retries": checks}
    cluster["circuit_breakers"]["thresholds"][0] |= most
    return cluster | {"health_checks": [check]}


def _usage_worker(where: Address | Pipe | None, tls: TlsOfAll) -> Iterator[Json]:
    if where:
        yield _cluster("usage_worker", where, CONNECTION_BYTES) | _http(2) | used(tls.usage_worker, where, http2=True)


def _console(endpoints: Endpoints) -> Iterator[Json]:
    yield _cluster("console", endpoints.console, CONNECTION_BYTES) | _http(1, idle_timeout=duration(IDLE_SECONDS))
    yield _cluster("console_grpc", endpoints.console_grpc, CONNECTION_BYTES) | _http(2)


def upstream_cluster(name: str) -> str:
    """Of an application."""
    return f"upstream_{name}"


def _upstream(name: str, where: Address | Pipe) -> Json:
    return _cluster(upstream_cluster(name), where, CONNECTION_BYTES) | _http(1, idle_timeout=duration(IDLE_SECONDS))


def _triton(where: Triton, variant: str, buffer_bytes: int, tls: TlsOfAll) -> Iterator[Json]:
    rest = used(tls.triton if tls.triton_rest else None, where.http, http2=False)
    yield _cluster(triton_cluster("http", variant), where.http, buffer_bytes) | rest
    rpc = used(tls.triton, where.grpc, http2=True)
    yield _cluster(triton_cluster("grpc", variant), where.grpc, buffer_bytes) | _http(2) | rpc


def _cluster(name: str, where: Address | Pipe, buffer_bytes: int) -> Json:
    endpoint = {"endpoint": {"address": envoy_address(where)}}
    return {
        "name": name,
        "type": "STATIC" if isinstance(where, Pipe) else "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "per_connection_buffer_limit_bytes": buffer_bytes,
        # Full queues answer 503 instead of growing.
        "circuit_breakers": {
            "thresholds": [{"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 4096}]
        },
    }


def _http(version: Literal[1, 2], **common: int | str) -> Json:
    """`common`: of Envoy's HttpProtocolOptions, for HTTP of any version."""
    options: Json = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options" if version == 2 else "http_protocol_options": {}},
    }
    if common:
        options["common_http_protocol_options"] = common
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}


def envoy_address(where: Address | Pipe) -> Json:
    if isinstance(where, Pipe):
        return {"pipe": {"path": where.path, "mode": 0o600}}
    return {"socket_address": {"address": where.host, "port_value": where.port}}
