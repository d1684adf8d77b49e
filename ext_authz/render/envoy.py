"""Envoy's configuration: what callers meet first, and the one place where REST and gRPC become the same question.

Order of a request: nothing in it that only we may say, canonical path or 400, no trailers, the model's name out of the
gRPC message, the authorizer, the variant's route, the size of a REST body, the upstream. Every request has a route, so
every request is judged, also the one that then gets 404.
"""

from __future__ import annotations

from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.bounds import CONNECTION_BYTES, Bounds, Json, duration, longest
from ext_authz.render.envoy_clusters import clusters, envoy_address
from ext_authz.render.envoy_routes import routes
from ext_authz.render.headers import VARIANT
from ext_authz.render.places import Places
from ext_authz.render.surface import Surface, surface


def bootstrap(policy: Policy, places: Places, bounds: Bounds = Bounds()) -> Json:  # noqa: B008 - frozen
    """The whole of it, for `envoy --config-path`."""
    served = surface(policy)
    return {
        "node": {"id": "tollgate", "cluster": "tollgate"},
        **({"admin": {"address": envoy_address(places.admin)}} if places.admin else {}),
        # Envoy would refuse a pattern of more than about three paths; Istio sets the same.
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}}]
        },
        "static_resources": {
            "listeners": [_listener(policy, served, places, bounds)],
            "clusters": clusters(served, places, bounds.grpc_bytes),
        },
    }


def _listener(policy: Policy, served: Surface, places: Places, bounds: Bounds) -> Json:
    connections = filters.named(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        _connection_manager(policy, served, places, bounds),
    )
    return {
        "name": "models",
        "address": envoy_address(places.listen),
        "per_connection_buffer_limit_bytes": CONNECTION_BYTES,
        "filter_chains": [{"filters": [connections]}],
    }


def _connection_manager(policy: Policy, served: Surface, places: Places, bounds: Bounds) -> Json:
    return {
        "stat_prefix": "models",
        "server_name": "tollgate",
        "early_header_mutation_extensions": [filters.early_header_mutation(policy)],
        # One spelling per path: repaired is what only one of the two reads differently.
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "300s",
            "max_stream_duration": longest(policy, bounds),
        },
        # The peer is the client, so Envoy believes it nothing about where the request came from.
        "use_remote_address": True,
        "internal_address_config": filters.NOBODY_IS_INTERNAL,
        "stream_idle_timeout": duration(bounds.request),
        "request_headers_timeout": "10s",
        # Judged when its headers are here: it must not arrive long after.
        "request_timeout": duration(bounds.request),
        "local_reply_config": filters.local_replies(bounds.grpc_bytes),
        "access_log": [_access_log(places.access_log)],
        "http_filters": _http_filters(policy, served, bounds),
        "route_config": {
            "name": "models",
            "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": routes(served, bounds)}],
            "max_direct_response_body_size_bytes": 4096,
        },
    }


def _http_filters(policy: Policy, served: Surface, bounds: Bounds) -> list[Json]:
    return [
        filters.header_mutation(),
        *([filters.target_reader(served)] if served.naming_rpcs else []),
        filters.named(filters.EXT_AUTHZ, "filters.http.ext_authz.v3.ExtAuthz", _ext_authz(policy, bounds)),
        filters.buffer(bounds.rest_bytes),
        filters.router(),
    ]


def _ext_authz(policy: Policy, bounds: Bounds) -> Json:
    return {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": duration(bounds.check)},
        "failure_mode_allow": False,
        "status_on_error": {"code": "ServiceUnavailable"},
        **filters.check(policy),
    }


def _access_log(path: str) -> Json:
    """A line of JSON per request; `decision` is what the authorizer said. No query: addresses carry secrets."""
    line = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ:PATH)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "milliseconds": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "variant": f"%REQ({VARIANT})%",
        "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "decision": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
    }
    config = {"path": path, "log_format": {"json_format": line}}
    return filters.named("envoy.access_loggers.file", "access_loggers.file.v3.FileAccessLog", config)
