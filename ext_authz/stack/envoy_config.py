"""Envoy's configuration: what callers meet first, and the one place where REST and gRPC become the same question.

Order of a request: canonical path or 400, the model's name out of the gRPC message, the authorizer, the size of a REST
body, the upstream. Every request has a route, so every request is judged, also the one that then gets 404.
"""

from __future__ import annotations

from pathlib import Path

from ext_authz.stack.addresses import Addresses
from ext_authz.stack.envoy_clusters import EXTENSIONS, Json, address, clusters
from ext_authz.stack.ports import LOOPBACK

GRPC_SERVICE = "inference.GRPCInferenceService"
DESCRIPTORS = Path(__file__).resolve().parents[1] / "gen" / "kserve.binpb"

_EXTRACTION = "envoy.filters.http.grpc_field_extraction"
_CHECK_TIMEOUT = "2.5s"
"""Longer than all waits of one check together (Redis 0.25 s twice, Postgres 0.5 s, keys 1 s): the authorizer's own 503
says more than Envoy's."""
_REST_BODY_BYTES = 8 * 1024 * 1024
"""More could end Triton's HTTP front end; big tensors go over gRPC."""
_CONNECTION_BYTES = 256 * 1024
_GRPC_BUFFER_BYTES = 64 * 1024 * 1024
"""Reading the model's name holds a message back as a whole: this is the largest that passes."""
_STREAM_SECONDS = 600
"""A stream is judged when it opens; so long may a revocation wait for it."""

_ROUTED_RPCS = (
    *("ServerLive", "ServerReady", "ServerMetadata"),
    *("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"),
)
# Only what is listed is routed: never the repository, shared memory, trace or logging, whoever asks.
_GRPC_PATHS = rf"/inference\.GRPCInferenceService/({'|'.join(_ROUTED_RPCS)})"
_GRPC_STREAM = f"/{GRPC_SERVICE}/ModelStreamInfer"
_REST_PATHS = (
    "/v2(/health/(live|ready)|/models/stats)?",
    "/v2/models/[^/]+(/versions/[^/]+)?(/(infer|generate|generate_stream|ready|config|stats))?",
)


def bootstrap(addresses: Addresses, envoy_port: int, admin_port: int, access_log: Path) -> Json:
    """The whole of it, for `envoy --config-path`."""
    return {
        "node": {"id": "tollgate", "cluster": "tollgate"},
        "admin": {"address": address(LOOPBACK, admin_port)},
        "static_resources": {
            "listeners": [_listener(envoy_port, access_log)],
            "clusters": clusters(addresses, _GRPC_BUFFER_BYTES),
        },
    }


def _listener(port: int, access_log: Path) -> Json:
    connections = _filter("envoy.filters.network.http_connection_manager", **_connection_manager(access_log))
    return {
        "name": "models",
        "address": address(LOOPBACK, port),
        # All that is read of a body until the authorizer has answered: what is there in one piece by then would slip
        # past `_buffer` whatever its size. A gRPC route has a limit of its own.
        "per_connection_buffer_limit_bytes": _CONNECTION_BYTES,
        "filter_chains": [{"filters": [connections]}],
    }


def _connection_manager(access_log: Path) -> Json:
    return {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "models",
        "server_name": "tollgate",
        # One spelling per path: repaired is what only one of the two reads differently.
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST", "idle_timeout": "300s"},
        # The peer is the client, so Envoy strips the x-envoy-* headers that only it may set.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": []},
        "stream_idle_timeout": "60s",
        "request_headers_timeout": "10s",
        "access_log": [_access_log(access_log)],
        "http_filters": [_field_extraction(), _ext_authz(), _buffer(), _router()],
        "route_config": {
            "name": "models",
            "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": _routes()}],
            "max_direct_response_body_size_bytes": 4096,
        },
    }


def _routes() -> list[Json]:
    return [
        _grpc_route({"path": _GRPC_STREAM}, timeout="0s", max_stream_duration=_STREAM_SECONDS),
        _grpc_route({"safe_regex": {"regex": _GRPC_PATHS}}, timeout="60s"),
        *(_rest_route(path) for path in _REST_PATHS),
        # A route, not the lack of one: without a route the authorizer would not be asked (and CONNECT would hang).
        _no_such_path({"prefix": "/"}),
        _no_such_path({"connect_matcher": {}}),
    ]


def _no_such_path(match: Json) -> Json:
    return {
        "match": match,
        "direct_response": {"status": 404, "body": {"inline_string": '{"error":"no such path"}\n'}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _grpc_route(match: Json, timeout: str, max_stream_duration: int = 0) -> Json:
    action: Json = {"cluster": "triton_grpc", "timeout": timeout, "retry_policy": _RETRY}
    if max_stream_duration:
        action["max_stream_duration"] = {"max_stream_duration": f"{max_stream_duration}s"}
    per_route = {"@type": f"{EXTENSIONS}.filters.http.buffer.v3.BufferPerRoute", "disabled": True}
    return {
        "match": {**match, "grpc": {}},
        "route": action,
        "request_body_buffer_limit": _GRPC_BUFFER_BYTES,
        "typed_per_filter_config": {"envoy.filters.http.buffer": per_route},
    }


def _rest_route(path: str) -> Json:
    return {
        "match": {"safe_regex": {"regex": path}},
        "route": {"cluster": "triton_http", "timeout": "60s", "retry_policy": _RETRY},
        # Triton parses a body that is called a form, and dies of a big one.
        "request_headers_to_add": [_header("content-type", "application/json")],
    }


# Client mistakes are 500 at Triton: repeating them would only repeat them.
_RETRY = {"retry_on": "connect-failure", "num_retries": 2}


def _field_extraction() -> Json:
    extractions: Json = {
        f"{GRPC_SERVICE}.{rpc}": {"request_field_extractions": {name: {} for name in names}}
        for rpc, names in _named_models().items()
    }
    return _filter(
        _EXTRACTION,
        **{"@type": f"{EXTENSIONS}.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig"},
        descriptor_set={"filename": str(DESCRIPTORS)},
        extractions_by_method=extractions,
    )


def _named_models() -> dict[str, tuple[str, str]]:
    """Where each RPC names its model. The last of repeated fields wins, here as in Triton."""
    infer = dict.fromkeys(("ModelInfer", "ModelStreamInfer"), ("model_name", "model_version"))
    return infer | dict.fromkeys(("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"), ("name", "version"))


def _ext_authz() -> Json:
    return _filter(
        "envoy.filters.http.ext_authz",
        **{"@type": f"{EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthz"},
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": _CHECK_TIMEOUT},
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        metadata_context_namespaces=[_EXTRACTION],
        encode_raw_headers=True,
        clear_route_cache=True,
    )


def _buffer() -> Json:
    """Limits REST bodies, after the authorizer: nobody without a pass makes us hold one."""
    kind = f"{EXTENSIONS}.filters.http.buffer.v3.Buffer"
    return _filter("envoy.filters.http.buffer", **{"@type": kind}, max_request_bytes=_REST_BODY_BYTES)


def _router() -> Json:
    return _filter(
        "envoy.filters.http.router",
        **{"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
        suppress_envoy_headers=True,
    )


def _access_log(path: Path) -> Json:
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
        "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "decision": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
    }
    return _filter(
        "envoy.access_loggers.file",
        **{"@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog"},
        path=str(path),
        log_format={"json_format": line},
    )


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _filter(name: str, **config: object) -> Json:
    return {"name": name, "typed_config": config}
