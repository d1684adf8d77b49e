"""What must never change by accident in front of the models. That Envoy does it is seen in tests/e2e."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from ext_authz.policy.kserve import Kind
from ext_authz.policy.model import RESOURCE_METADATA, Cors, Mirror, Policy, Resource
from ext_authz.policy.names import CONSOLE_SERVICES
from ext_authz.render.endpoints import Address, Endpoints, Json, Pipe, Timeouts, Triton, triton
from ext_authz.render.envoy import bootstrap
from ext_authz.render.headers import MISLEADING, RESERVED
from ext_authz.render.text import as_json, as_yaml
from ext_authz.server.rpc import MAX_CALLS
from tests.unit.render.policies import CANARY, EVERYDAY, TOKENS, at, demo, of_kinds, policy

PLACES = Endpoints(listen=Address("127.0.0.1", 18080), triton=triton("gpu:18000:18001"))


def rendered(policy: Policy) -> Json:
    """The settings of Envoy's connection manager."""
    (listener,) = bootstrap(policy, PLACES)["static_resources"]["listeners"]
    settings: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return settings


@pytest.fixture(scope="module")
def connections() -> Json:
    return rendered(of_kinds(*EVERYDAY))


def routes(connections: Json) -> list[Json]:
    found: list[Json] = connections["route_config"]["virtual_hosts"][0]["routes"]
    return found


def cluster_of(connections: Json, path: str, *, is_grpc: bool, variant: str = "") -> str:
    """As Envoy would choose it: the first match; "" is the answer 404."""
    for route in routes(connections):
        match = route["match"]
        if "path" in match or any(name in str(match) for name in ("content-length", "x-authz-upstream")):
            continue  # a document, for GET; what is too large; what is of an application
        if "prefix" in match:
            fits = path.startswith(match["prefix"])
        else:
            fits = "safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], path) is not None
        asked = [header["string_match"]["exact"] for header in match.get("headers", [])]
        if fits and (is_grpc or "grpc" not in match) and asked in ([], [variant]):
            return str(route.get("route", {}).get("cluster", ""))
    raise AssertionError(f"no route for {path}: the authorizer would not be called")


def test_the_model_is_read_before_the_check_and_bodies_are_buffered_after_it(connections: Json) -> None:
    names = [entry["name"].rpartition(".")[2] for entry in connections["http_filters"]]
    assert names == ["header_mutation", "target", "ext_authz", "buffer", "answers", "router"]


def test_pages_are_answered_before_the_check() -> None:
    names = [
        entry["name"].rpartition(".")[2] for entry in rendered(of_kinds(*EVERYDAY, cors=Cors(("*",))))["http_filters"]
    ]
    assert names.index("cors") < names.index("ext_authz")


def test_only_documents_are_served_unchecked(connections: Json) -> None:
    unchecked = [route for route in routes(connections) if "ext_authz" in str(route.get("typed_per_filter_config"))]
    too_large, *documents = unchecked
    assert {route["match"]["path"] for route in documents} == {"/", RESOURCE_METADATA}
    assert too_large["match"]["headers"][0]["range_match"]["start"] == 8 * 1024 * 1024 + 1
    assert [route["direct_response"]["status"] for route in unchecked] == [413, 200, 200, 200]


def test_the_policy_may_serve_the_first_page_itself() -> None:
    found = routes(rendered(policy(at("/"))))
    assert [route["match"]["path"] for route in found if "path" in route["match"]] == [RESOURCE_METADATA]


def test_a_long_document_is_served_whole() -> None:
    scopes = tuple(f"scope-{number}" for number in range(1000))
    config = rendered(of_kinds(*EVERYDAY, resource=Resource("https://models.example", scopes=scopes)))["route_config"]
    longest = max(
        len(route["direct_response"]["body"]["inline_string"])
        for route in config["virtual_hosts"][0]["routes"]
        if "path" in route["match"]
    )
    assert config["max_direct_response_body_size_bytes"] == longest > 4096


def test_nothing_is_extracted_where_no_call_names_a_model() -> None:
    names = [entry["name"] for entry in rendered(of_kinds(Kind.ADMIN))["http_filters"]]
    assert not any("extraction" in name for name in names)


def test_without_an_answer_of_the_authorizer_every_request_is_denied(connections: Json) -> None:
    (check,) = (entry["typed_config"] for entry in connections["http_filters"] if "ext_authz" in entry["name"])
    assert check["failure_mode_allow"] is False
    assert check["status_on_error"] == {"code": "ServiceUnavailable"}
    assert check["encode_raw_headers"] is True
    assert check["clear_route_cache"] is True


def test_a_check_of_a_killed_worker_is_retried_once(connections: Json) -> None:
    (check,) = (entry["typed_config"] for entry in connections["http_filters"] if "ext_authz" in entry["name"])
    retries = check["grpc_service"]["retry_policy"]
    assert retries == {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 1}


def test_callers_cannot_set_reserved_headers(connections: Json) -> None:
    (early,) = connections["early_header_mutation_extensions"]
    *removed, by_prefix = early["typed_config"]["mutations"]
    assert [mutation["remove"] for mutation in removed] == [*RESERVED, *MISLEADING]
    assert "x-model-variant" in RESERVED
    assert by_prefix["remove_on_match"]["key_matcher"] == {"prefix": "x-envoy-", "ignore_case": True}


@pytest.mark.parametrize(
    ("path", "cluster"),
    [
        ("/v2/models/sentiment/infer", "triton_http"),
        ("/v2/models/sentiment/versions/1/infer", "triton_http"),
        ("/v2/models/sentiment/generate_stream", "triton_http"),
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
        ("/v2/models/a/infer/", ""),
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
        ("ModelInferX", ""),
    ],
)
def test_rpcs(connections: Json, rpc: str, cluster: str) -> None:
    path = f"/inference.GRPCInferenceService/{rpc}"
    assert cluster_of(connections, path, is_grpc=True) == cluster
    assert cluster_of(connections, path, is_grpc=False) == ""


def test_the_console_is_in_front_of_every_route_of_the_policy() -> None:
    everything = rendered(policy(at("/{rest=**}"), at("/tollgate.x.Y/{method}", grpc=True), tokens=TOKENS))
    for path in ("/tollgate", "/tollgate/", "/tollgate/api/v1/tokens", "/tollgate/.well-known/openid-configuration"):
        assert cluster_of(everything, path, is_grpc=False) == "console"
    for service in CONSOLE_SERVICES:
        assert cluster_of(everything, f"/{service}/Get", is_grpc=True) == "console_grpc"
        assert cluster_of(everything, f"/{service}/Get", is_grpc=False) != "console_grpc"
    for path in ("/Tollgate/", "/tollgates", "/v2/tollgate/"):
        assert cluster_of(everything, path, is_grpc=False) == "triton_http"
    assert cluster_of(everything, "/tollgate.x.Y/Get", is_grpc=True) == "triton_grpc"
    assert cluster_of(rendered(policy(at("/{rest=**}"))), "/tollgate/", is_grpc=False) == "triton_http"


def test_on_the_way_to_the_console_bodies_are_small_and_answers_left_alone() -> None:
    found = rendered(of_kinds(*EVERYDAY, tokens=TOKENS, cors=Cors(("https://app.example",), credentials=True)))
    of_console = [route for route in routes(found) if "console" in str(route.get("route", {}).get("cluster"))]
    assert len(of_console) == 2
    for route in of_console:
        settings = route["typed_per_filter_config"]
        assert settings["envoy.filters.http.buffer"]["buffer"] == {"max_request_bytes": 1048576}
        assert settings["tollgate.answers"]["disabled"] is True
        assert settings["tollgate.cors"]["filter_enabled"] == {"default_value": {"numerator": 0}}
        assert "ext_authz" not in str(settings), "the console is checked, too"
    too_large, *_ = routes(found)
    assert too_large["match"]["prefix"] == "/tollgate/"
    assert too_large["match"]["headers"][0]["range_match"]["start"] == 65537


def test_no_model_gets_or_sets_a_cookie_of_the_consoles_host() -> None:
    found = rendered(of_kinds(*EVERYDAY, tokens=TOKENS, experiments={"sentiment": CANARY}))
    to_models = [route for route in routes(found) if "triton" in str(route.get("route"))]
    assert to_models
    for route in to_models:
        assert route["request_headers_to_remove"] == ["cookie"]
        assert route["response_headers_to_remove"] == ["set-cookie"]
    others = [route for route in routes(found) if route not in to_models]
    assert "cookie" not in str(others)
    assert "cookie" not in str(routes(rendered(of_kinds(*EVERYDAY))))


def test_only_a_policy_that_serves_the_repository_has_it_routed() -> None:
    connections = rendered(of_kinds(Kind.REPOSITORY, Kind.ADMIN))
    assert cluster_of(connections, "/v2/repository/models/sentiment/load", is_grpc=False) == "triton_http"
    assert cluster_of(connections, "/v2/logging", is_grpc=False) == "triton_http"
    assert cluster_of(connections, "/inference.GRPCInferenceService/RepositoryIndex", is_grpc=True) == "triton_grpc"
    assert cluster_of(connections, "/v2/models/sentiment/infer", is_grpc=False) == ""


def test_what_triton_parses_is_small(connections: Json) -> None:
    rest = [route for route in routes(connections) if route.get("route", {}).get("cluster") == "triton_http"]
    assert rest
    assert not any("buffer" in str(route.get("typed_per_filter_config")) for route in rest)
    # The script that reads the model's name from a message has nothing to read.
    assert all(route["typed_per_filter_config"]["tollgate.target"]["disabled"] for route in rest)
    assert "tollgate.target" not in str([route for route in routes(connections) if "grpc" in route["match"]])
    (body,) = (entry["typed_config"] for entry in connections["http_filters"] if "buffer" in entry["name"])
    assert body["max_request_bytes"] == 8 * 1024 * 1024


def test_bounds_are_the_callers_choice() -> None:
    text = as_json(bootstrap(demo(), PLACES, Timeouts(check=1, request=7, rest_bytes=1234, grpc_bytes=5678, checks=90)))
    assert '"timeout": "1s"' in text
    assert '"timeout": "7s"' in text
    assert '"request_timeout": "7s"' in text
    # The policy's 10 min, and what a call takes to arrive.
    assert '"max_stream_duration": "607s"' in text
    assert '"max_request_bytes": 1234' in text
    assert '"request_body_buffer_limit": 5678' in text
    assert f'"max_heap_size_bytes": {2**28 + 32 * 5678}' in text
    assert '"max_requests": 90' in text


def test_one_envoy_does_not_overload_one_worker() -> None:
    """The rest is for its probes."""
    assert Timeouts().checks < MAX_CALLS


def test_only_failed_connections_are_tried_again(connections: Json) -> None:
    upstream = [route["route"] for route in routes(connections) if "triton" in str(route.get("route"))]
    tried = {action["retry_policy"]["retry_on"] for action in upstream}
    assert tried == {"connect-failure"}


def test_paths_are_refused_not_repaired(connections: Json) -> None:
    assert connections["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert connections["merge_slashes"] is False
    assert connections["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"


def test_endpoints_are_those_that_are_given() -> None:
    config = bootstrap(demo(), PLACES)
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18080}
    assert "admin" not in config
    assert addresses(config) == {
        "authorizer": ("127.0.0.1", 9000),
        "console": ("127.0.0.1", 9010),
        "console_grpc": ("127.0.0.1", 9011),
        "triton_http": ("gpu", 18000),
        "triton_grpc": ("gpu", 18001),
    }


def test_what_is_for_one_user_is_a_socket() -> None:
    endpoints = Endpoints(admin=Pipe("/x/admin"), triton=Triton(Pipe("/x/http"), Pipe("/x/grpc:1")))
    config = bootstrap(of_kinds(*EVERYDAY), endpoints)
    assert config["admin"]["address"] == {"pipe": {"path": "/x/admin", "mode": 0o600}}
    _, rest, rpc = config["static_resources"]["clusters"]
    for cluster, path in ((rest, "/x/http"), (rpc, "/x/grpc:1")):
        assert cluster["type"] == "STATIC"
        assert f"'path': '{path}'" in str(cluster)


def addresses(config: Json) -> dict[str, tuple[str, int]]:
    found = {}
    for cluster in config["static_resources"]["clusters"]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        where = endpoint["endpoint"]["address"]["socket_address"]
        found[cluster["name"]] = (where["address"], where["port_value"])
    return found


def test_calls_of_one_model_by_the_first_variant_are_copied_and_streams_are_not() -> None:
    mirrored = replace(CANARY, mirror=Mirror("canary", 25))
    found = routes(rendered(of_kinds(*EVERYDAY, experiments={"sentiment": mirrored})))
    copied = [route for route in found if "request_mirror_policies" in route.get("route", {})]
    for protocol in ("http", "grpc"):
        (first, *_) = (route for route in copied if route["route"]["cluster"] == f"triton_{protocol}_stable")
        fraction = {"default_value": {"numerator": 25, "denominator": "HUNDRED"}}
        mirror = {"cluster": f"triton_{protocol}_canary", "runtime_fraction": fraction}
        assert first["route"]["request_mirror_policies"] == [mirror]
    for route in copied:
        asked = {header["name"]: header["string_match"]["exact"] for header in route["match"]["headers"]}
        assert asked == {"x-model-variant": "stable", "x-authz-model": "sentiment", "x-authz-version": "*"}
        assert "Stream" not in route["match"]["safe_regex"]["regex"]
        plain = {**route["match"], "headers": route["match"]["headers"][:1]}
        assert plain in [other["match"] for other in found[found.index(route) :]], "other models are not copied"


def test_each_variant_is_routed_by_its_header_and_has_a_place_of_its_own() -> None:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": CANARY})
    connections = rendered(policy)
    path = "/v2/models/sentiment/infer"
    assert cluster_of(connections, path, is_grpc=False, variant="canary") == "triton_http_canary"
    assert cluster_of(connections, path, is_grpc=False, variant="stable") == "triton_http_stable"
    assert cluster_of(connections, path, is_grpc=False) == "triton_http"
    rpc = "/inference.GRPCInferenceService/ModelInfer"
    assert cluster_of(connections, rpc, is_grpc=True, variant="canary") == "triton_grpc_canary"
    assert cluster_of(connections, "/v2/logging", is_grpc=False, variant="canary") == ""

    endpoints = Endpoints(triton=triton("a:1:2"), variants={"canary": triton("b:3:4")})
    found = addresses(bootstrap(policy, endpoints))
    assert found["triton_http_stable"] == found["triton_http"] == ("a", 1)
    assert found["triton_http_canary"] == ("b", 3)
    assert found["triton_grpc_canary"] == ("b", 4)


def test_the_same_policy_gives_the_same_bytes() -> None:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": CANARY})
    assert as_yaml(bootstrap(policy, PLACES)) == as_yaml(bootstrap(policy, PLACES))
    assert as_json(bootstrap(policy, PLACES)) == as_json(bootstrap(policy, PLACES))
    assert "&id" not in as_yaml(bootstrap(policy, PLACES))
