"""Whom Envoy asks and calls: the authorizer, and Triton's two listeners, once per variant."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.render.bounds import CALLS_PER_CONNECTION, Json
from ext_authz.render.filters import EXTENSIONS
from ext_authz.render.places import Address, Pipe, Places, Triton
from ext_authz.render.surface import Surface


def clusters(surface: Surface, places: Places, buffer_bytes: int) -> list[Json]:
    """`buffer_bytes`: the largest answer, or part of a stream, that is held for a slow reader."""
    return [
        _authorizer(places.authorizer, buffer_bytes),
        *_triton(places.triton, "", buffer_bytes),
        *(
            cluster
            for variant in surface.variants
            for cluster in _triton(places.variants.get(variant, places.triton), variant, buffer_bytes)
        ),
    ]


def triton_cluster(protocol: str, variant: str = "") -> str:
    """The name of one: `triton_grpc`, `triton_http_canary`."""
    return "_".join(filter(None, ("triton", protocol, variant)))


def _authorizer(where: Address, buffer_bytes: int) -> Json:
    """Health is asked twice a second: one of several that drains or cannot decide is asked no more. Where all seem
    so, they are asked all the same (Envoy's panic mode): probes, too, are refused by one that has too much to do."""
    check: Json = {"timeout": "1s", "interval": "0.5s", "no_traffic_interval": "0.5s", "grpc_health_check": {}}
    check |= {"unhealthy_threshold": 2, "healthy_threshold": 1}
    cluster = _cluster("authorizer", where, buffer_bytes) | _http2(max_requests_per_connection=CALLS_PER_CONNECTION)
    return cluster | {"health_checks": [check]}


def _triton(where: Triton, variant: str, buffer_bytes: int) -> Iterator[Json]:
    yield _cluster(triton_cluster("http", variant), where.http, buffer_bytes)
    yield _cluster(triton_cluster("grpc", variant), where.grpc, buffer_bytes) | _http2()


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


def _http2(**common: int) -> Json:
    """`common`: of Envoy's HttpProtocolOptions, for HTTP of any version."""
    options: Json = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    if common:
        options["common_http_protocol_options"] = common
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}


def envoy_address(where: Address | Pipe) -> Json:
    if isinstance(where, Pipe):
        return {"pipe": {"path": where.path, "mode": 0o600}}
    return {"socket_address": {"address": where.host, "port_value": where.port}}
