"""Whom Envoy asks and calls: the authorizer, and Triton's two listeners."""

from __future__ import annotations

from typing import Any

from ext_authz.stack.addresses import Addresses
from ext_authz.stack.ports import LOOPBACK

Json = dict[str, Any]

EXTENSIONS = "type.googleapis.com/envoy.extensions"


def clusters(addresses: Addresses, buffer_bytes: int) -> list[Json]:
    """`buffer_bytes`: the largest answer, or part of a stream, that is held for a slow reader."""
    host, http_port, grpc_port = addresses.triton_host, addresses.triton_http_port, addresses.triton_grpc_port
    return [
        _authorizer(addresses.authorizer_port, buffer_bytes),
        _cluster("triton_http", host, http_port, buffer_bytes),
        _cluster("triton_grpc", host, grpc_port, buffer_bytes) | _HTTP2,
    ]


def _authorizer(port: int, buffer_bytes: int) -> Json:
    """Health is asked twice a second: while it drains or cannot decide, callers get 503 at once."""
    check: Json = {"timeout": "1s", "interval": "0.5s", "no_traffic_interval": "0.5s", "grpc_health_check": {}}
    check |= {"unhealthy_threshold": 2, "healthy_threshold": 1}
    cluster = _cluster("authorizer", LOOPBACK, port, buffer_bytes) | _HTTP2
    return cluster | {"health_checks": [check], "common_lb_config": {"healthy_panic_threshold": {"value": 0}}}


def _cluster(name: str, host: str, port: int, buffer_bytes: int) -> Json:
    endpoint = {"endpoint": {"address": address(host, port)}}
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "per_connection_buffer_limit_bytes": buffer_bytes,
        # Full queues answer 503 instead of growing.
        "circuit_breakers": {
            "thresholds": [{"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 4096}]
        },
    }


_HTTP2: Json = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}


def address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
