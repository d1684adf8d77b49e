"""What must never change by accident in front of the models. That Envoy takes the file is seen in tests/e2e/stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ext_authz.stack.addresses import resolve
from ext_authz.stack.directory import StateDirectory
from ext_authz.stack.envoy_config import DESCRIPTORS, bootstrap
from ext_authz.stack.settings import load_stack_settings

Json = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path) -> Json:
    addresses = resolve(load_stack_settings({"triton": "gpu:18000:18001"}), StateDirectory(tmp_path))
    return bootstrap(addresses, 8080, 9901, tmp_path / "access.log")


@pytest.fixture
def connections(config: Json) -> Json:
    (listener,) = config["static_resources"]["listeners"]
    settings: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return settings


def routes(connections: Json) -> list[Json]:
    found: list[Json] = connections["route_config"]["virtual_hosts"][0]["routes"]
    return found


def cluster_of(connections: Json, path: str, *, is_grpc: bool) -> str:
    """As Envoy would choose it: the first match; "" is the answer 404."""
    for route in routes(connections):
        match = route["match"]
        path_fits = (
            match.get("path") == path
            or ("safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], path))
            or ("prefix" in match and path.startswith(match["prefix"]))
        )
        if path_fits and (is_grpc or "grpc" not in match):
            return str(route.get("route", {}).get("cluster", ""))
    raise AssertionError(f"no route for {path}: the authorizer would not be asked")


def test_the_model_is_read_before_the_authorizer_is_asked_and_bodies_are_held_after(connections: Json) -> None:
    names = [entry["name"].rpartition(".")[2] for entry in connections["http_filters"]]
    assert names == ["grpc_field_extraction", "ext_authz", "buffer", "router"]


def test_no_answer_of_the_authorizer_lets_nobody_through(connections: Json) -> None:
    (check,) = (entry["typed_config"] for entry in connections["http_filters"] if "ext_authz" in entry["name"])
    assert check["failure_mode_allow"] is False
    assert check["status_on_error"] == {"code": "ServiceUnavailable"}
    assert check["encode_raw_headers"] is True


@pytest.mark.parametrize(
    ("path", "cluster"),
    [
        ("/v2/models/sentiment/infer", "triton_http"),
        ("/v2/models/sentiment/versions/1/infer", "triton_http"),
        ("/v2/models/sentiment", "triton_http"),
        ("/v2/health/ready", "triton_http"),
        ("/v2", "triton_http"),
        ("/v2/repository/index", ""),
        ("/v2/repository/models/sentiment/load", ""),
        ("/v2/systemsharedmemory/status", ""),
        ("/v2/cudasharedmemory/region/x/register", ""),
        ("/v2/trace/setting", ""),
        ("/v2/models/sentiment/trace/setting", ""),
        ("/v2/logging", ""),
        ("/v2/models/a/b/infer", ""),
        ("/", ""),
    ],
)
def test_rest_paths(connections: Json, path: str, cluster: str) -> None:
    assert cluster_of(connections, path, is_grpc=False) == cluster


@pytest.mark.parametrize(
    ("rpc", "cluster"),
    [
        ("ModelInfer", "triton_grpc"),
        ("ModelStreamInfer", "triton_grpc"),
        ("ModelMetadata", "triton_grpc"),
        ("ServerLive", "triton_grpc"),
        ("RepositoryIndex", ""),
        ("RepositoryModelLoad", ""),
        ("SystemSharedMemoryRegister", ""),
        ("CudaSharedMemoryRegister", ""),
        ("TraceSetting", ""),
        ("LogSettings", ""),
    ],
)
def test_rpcs(connections: Json, rpc: str, cluster: str) -> None:
    path = f"/inference.GRPCInferenceService/{rpc}"
    assert cluster_of(connections, path, is_grpc=True) == cluster
    assert cluster_of(connections, path, is_grpc=False) == ""


def test_what_triton_parses_is_called_json_and_is_small(connections: Json) -> None:
    rest = [route for route in routes(connections) if route.get("route", {}).get("cluster") == "triton_http"]
    assert rest
    for route in rest:
        (header,) = route["request_headers_to_add"]
        assert header["header"] == {"key": "content-type", "value": "application/json"}
        assert header["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
        assert "typed_per_filter_config" not in route
    (body,) = (entry["typed_config"] for entry in connections["http_filters"] if "buffer" in entry["name"])
    assert body["max_request_bytes"] == 8 * 1024 * 1024


def test_only_failed_connections_are_tried_again(connections: Json) -> None:
    tried = {route["route"]["retry_policy"]["retry_on"] for route in routes(connections) if "route" in route}
    assert tried == {"connect-failure"}


def test_paths_are_refused_not_repaired(connections: Json) -> None:
    assert connections["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert connections["merge_slashes"] is False
    assert connections["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"


def test_everything_listens_on_loopback_and_triton_is_where_the_setting_says(config: Json) -> None:
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 8080}
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    clusters = {cluster["name"]: cluster["load_assignment"] for cluster in config["static_resources"]["clusters"]}
    assert "'gpu', 'port_value': 18000" in str(clusters["triton_http"])
    assert "'gpu', 'port_value': 18001" in str(clusters["triton_grpc"])


def test_descriptors_are_there() -> None:
    assert DESCRIPTORS.is_file()
