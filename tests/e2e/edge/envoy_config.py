"""A static Envoy: per listener one variant of ext_authz in front of one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ext_authz.edge.request import TARGET
from ext_authz.policy.kserve import Kind
from ext_authz.render.exposed_paths import exposed_paths
from ext_authz.render.filters import target_reader
from tests.unit.render.policies import of_kinds

Json = dict[str, Any]

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_LOGGED = ("decision_id", "subject", "reason", "code", "policy")


def bootstrap(
    listeners: Mapping[str, tuple[int, Json]], authorizer_port: int, model_port: int, access_log: Path
) -> Json:
    """`listeners`: name to port and what its ext_authz filter has besides the common options."""
    return {
        "static_resources": {
            "listeners": [_listener(name, *of, access_log) for name, of in listeners.items()],
            "clusters": [
                _cluster("authorizer", authorizer_port, {"http2_protocol_options": {}}),
                _cluster("model", model_port, {}),
            ],
        }
    }


def _listener(name: str, port: int, ext_authz_options: Json, access_log: Path) -> Json:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "model"}}
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [
            target_reader(exposed_paths(of_kinds(Kind.INFER))),
            _filter("ext_authz", "ExtAuthz", _ext_authz() | ext_authz_options),
            _filter("router", "Router", {}),
        ],
        "route_config": {"virtual_hosts": [{"name": "models", "domains": ["*"], "routes": [route]}]},
        "access_log": [_access_log(access_log)],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _filter(name: str, message: str, config: Json) -> Json:
    typed_config = {"@type": f"{_EXTENSIONS}.filters.http.{name}.v3.{message}", **config}
    return {"name": f"envoy.filters.http.{name}", "typed_config": typed_config}


def _ext_authz() -> Json:
    return {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "5s"},
        "metadata_context_namespaces": [TARGET],
        "validate_mutations": True,
    }


def _access_log(path: Path) -> Json:
    logged = {name: f"%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{name})%" for name in _LOGGED}
    config = {
        "@type": f"{_EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
        "path": str(path),
        "log_format": {"json_format": logged},
    }
    return {"name": "envoy.access_loggers.file", "typed_config": config}


def _cluster(name: str, port: int, protocol: Json) -> Json:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}
    assignment = {"cluster_name": name, "endpoints": [endpoint]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **protocol}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
