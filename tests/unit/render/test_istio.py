"""The objects of Istio: the check, access rules, what is merged into the gateway, where each variant goes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.policy.issuers import Asap, Issuer
from ext_authz.policy.kserve import Kind
from ext_authz.policy.model import Experiment, Mirror, Policy
from ext_authz.render.documents import _issuers
from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.istio.access import MESH_CONFIG
from ext_authz.render.istio.manifest import Manifest
from ext_authz.render.istio.mesh import Mesh, Workload, workload
from ext_authz.render.istio.objects import objects
from ext_authz.render.text import as_yaml
from tests.unit.render.policies import CANARY, EVERYDAY, TOKENS, at, demo, of_kinds, policy

REFERENCE_MESH = Mesh(services=True, request_authentication=True)
"""In `istio/` is everything that can be rendered."""
REFERENCE = Path(__file__).resolve().parents[3] / "istio"
FIELDS = {
    "Telemetry": {"selector", "accessLogging"},
    # What we use of the published schemas: Kubernetes drops what it does not know.
    "AuthorizationPolicy": {"selector", "action", "provider", "rules"},
    "PeerAuthentication": {"selector", "mtls"},
    "RequestAuthentication": {"selector", "jwtRules"},
    "EnvoyFilter": {"workloadSelector", "priority", "configPatches"},
    "Gateway": {"selector", "servers"},
    "VirtualService": {"hosts", "gateways", "http"},
    "DestinationRule": {"host", "trafficPolicy", "subsets"},
    "Service": {"selector", "ports"},
    "ServiceEntry": {"hosts", "ports", "location", "resolution", "exportTo"},
}


def rendered(of: Policy, mesh: Mesh | None = None, timeouts: Timeouts = Timeouts()) -> dict[str, Json]:  # noqa: B008
    """By their names without number."""
    return {unnumbered(one): one.content for one in objects(of, mesh or Mesh(), timeouts)}


def unnumbered(one: Manifest) -> str:
    return one.path if one.path == MESH_CONFIG else one.path.partition("-")[2]


@pytest.fixture(scope="module")
def canary() -> dict[str, Json]:
    return rendered(of_kinds(*EVERYDAY, experiments={"sentiment": CANARY}))


SERVICE = Issuer(
    name="web",
    issuer="team/web",
    jwks_url="",
    audiences=frozenset({"triton-gateway"}),
    asap=Asap(("https://keys.example/asap/", "https://copy.example:8443/")),
)


def test_keys_of_services_are_let_out_to_the_authorizer_only() -> None:
    with_service = replace(demo(), issuers=(*demo().issuers, SERVICE))
    before = {name for name in rendered(demo()) if "keys" in name}
    found = {name for name in rendered(with_service) if "keys" in name} - before
    start = "serviceentry-tollgate-keys"
    assert found == {f"{start}-keys-example.yaml", f"{start}-copy-example-8443.yaml"}
    assert _issuers(with_service) == _issuers(demo()), "where people get tokens"
    with pytest.raises(ConfigError, match=r"^--request-authentication: .* those of web: leave the option out$"):
        rendered(with_service, REFERENCE_MESH)


def test_the_reference_is_what_the_demo_policy_gives() -> None:
    """After a change: tollgate policy render istio devstack/stack/policy.yaml --out istio with the options of it all:
    --services --request-authentication"""
    files = [*REFERENCE.glob("*.yaml"), REFERENCE / MESH_CONFIG]
    written = {str(path.relative_to(REFERENCE)): path.read_text() for path in files}
    assert written == {one.path: one.text() for one in objects(demo(), REFERENCE_MESH)}


def test_every_object_is_whole_and_named_like_its_file() -> None:
    for one in objects(of_kinds(*EVERYDAY, experiments={"sentiment": CANARY}), REFERENCE_MESH):
        assert yaml.safe_load(one.text()) == one.content
        if one.path == MESH_CONFIG:
            continue
        assert set(one.content) == {"apiVersion", "kind", "metadata", "spec"}
        assert one.content["metadata"]["namespace"]
        assert unnumbered(one) == f"{one.content['kind'].lower()}-{one.content['metadata']['name']}.yaml"
        assert set(one.content["spec"]) <= FIELDS[one.content["kind"]]


def test_every_file_begins_with_the_reason_for_its_object() -> None:
    for one in objects(demo(), REFERENCE_MESH):
        comment = [line for line in one.text().splitlines() if line.startswith("# ")]
        assert one.text().splitlines()[: len(comment)] == comment
        assert 2 <= len(comment) <= 6


def test_nothing_is_routed_before_the_check_and_the_access_policies_are_there() -> None:
    """kubectl applies the files of a folder in the order of their names."""
    _, *files = (one.path for one in objects(demo(), REFERENCE_MESH))
    assert files == sorted(files)
    assert len({path.partition("-")[0] for path in files}) == len(files)
    kinds = [path.split("-")[1] for path in files]
    assert kinds[0] == "gateway"
    assert kinds[-1] == "virtualservice"


def test_every_request_is_checked_and_denied_without_an_answer(canary: dict[str, Json]) -> None:
    provider, logs = canary[MESH_CONFIG]["meshConfig"]["extensionProviders"]
    asked = provider["envoyExtAuthzGrpc"]
    assert asked["service"] == "tollgate.tollgate.svc.cluster.local"
    assert (asked["failOpen"], asked["statusOnError"], asked["timeout"]) == (False, "503", "2.5s")
    spec = canary["authorizationpolicy-tollgate.yaml"]["spec"]
    assert spec["action"] == "CUSTOM"
    assert spec["provider"]["name"] == provider["name"]
    assert spec["rules"] == [{}]
    telemetry = canary["telemetry-tollgate.yaml"]["spec"]
    assert [log["providers"] for log in telemetry["accessLogging"]] == [[{"name": "envoy"}], [{"name": logs["name"]}]]
    assert spec["selector"] == {"matchLabels": {"istio": "ingress"}}


def test_only_the_gateway_speaks_to_triton_and_to_the_authorizer(canary: dict[str, Json]) -> None:
    for name, ports in (("triton", ["8000", "8001"]), ("tollgate", ["9000"])):
        assert canary[f"peerauthentication-{name}.yaml"]["spec"]["mtls"] == {"mode": "STRICT"}
        lock = canary[f"authorizationpolicy-{name}-gateway-only.yaml"]["spec"]
        (rule,) = lock["rules"]
        assert lock["action"] == "ALLOW"
        assert rule["from"] == [{"source": {"principals": ["cluster.local/ns/istio-ingress/sa/istio-ingress"]}}]
        assert rule["to"] == [{"operation": {"ports": ports}}]


def test_a_reader_of_metrics_reads_nothing_else() -> None:
    mesh = Mesh(metrics_principals=("cluster.local/ns/m/sa/p",), trust_domain="acme")
    gateway, metrics = rendered(demo(), mesh)["authorizationpolicy-triton-gateway-only.yaml"]["spec"]["rules"]
    assert gateway["from"][0]["source"]["principals"] == ["acme/ns/istio-ingress/sa/istio-ingress"]
    assert metrics["from"][0]["source"]["principals"] == ["cluster.local/ns/m/sa/p"]
    assert metrics["to"] == [{"operation": {"ports": ["8002"]}}]


def http(found: dict[str, Json]) -> list[Json]:
    return [route for route in http_routes(found) if "redirect" not in route]


def destination(found: dict[str, Json], path: str, **headers: str) -> tuple[str, int]:
    """Subset and port that the first fitting route leads to; ("", 404) for the answer."""
    for route in http(found):
        if "match" not in route or any(_fits(match, path, headers) for match in route["match"]):
            if "directResponse" in route:
                return "", route["directResponse"]["status"]
            (to,) = route["route"]
            return to["destination"].get("subset", ""), to["destination"]["port"]["number"]
    raise AssertionError("the authorizer would not be called")


def _fits(match: Json, path: str, headers: dict[str, str]) -> bool:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = match.get("headers", {}).items()
    return re.fullmatch(match["uri"]["regex"], path) is not None and all(
        given.get(name) == how["exact"] if "exact" in how else re.fullmatch(how["regex"], given.get(name, ""))
        for name, how in asked
    )


INFER = "/v2/models/sentiment/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (INFER, {"x_model_variant": "canary"}, ("canary", 8000)),
        (INFER, {"x_model_variant": "stable"}, ("stable", 8000)),
        (INFER, {}, ("stable", 8000)),
        (RPC, {"x_model_variant": "canary", "content_type": "application/grpc+proto"}, ("canary", 8001)),
        (RPC, {"content_type": "application/grpc"}, ("stable", 8001)),
        (RPC, {"x_model_variant": "canary"}, ("", 404)),
        ("/v2/repository/index", {"x_model_variant": "canary"}, ("", 404)),
        ("/.tollgate/quota", {"x_model_variant": "canary"}, ("", 9000)),
    ],
)
def test_the_authorizers_header_chooses_the_variant(
    canary: dict[str, Json], path: str, headers: dict[str, str], expected: tuple[str, int]
) -> None:
    assert destination(canary, path, **headers) == expected


def test_calls_of_one_model_by_the_first_variant_are_copied() -> None:
    mirrored = replace(CANARY, mirror=Mirror("canary", 25))
    found = http(rendered(of_kinds(*EVERYDAY, experiments={"sentiment": mirrored})))
    copied = {route["name"]: route for route in found if "mirrors" in route}
    assert list(copied) == ["stable-grpc-sentiment", "stable-rest-sentiment"]
    for name, route in copied.items():
        (mirror,) = route["mirrors"]
        assert (mirror["destination"]["subset"], mirror["percentage"]) == ("canary", {"value": 25})
        for match in route["match"]:
            asked = (match["headers"]["x-authz-model"], match["headers"]["x-authz-version"])
            assert asked == ({"exact": "sentiment"}, {"exact": "*"})
        names = [each.get("name") for each in found]
        assert names.index(name) < names.index(name.removesuffix("-sentiment"))


def test_variants_are_pods_with_a_label(canary: dict[str, Json]) -> None:
    rule = canary["destinationrule-triton.yaml"]
    assert rule["metadata"]["namespace"] == "models"
    assert rule["spec"]["subsets"] == [
        {"name": "stable", "labels": {"variant": "stable"}},
        {"name": "canary", "labels": {"variant": "canary"}},
    ]
    assert destination(rendered(demo()), INFER) == ("", 8000)
    assert "subsets" not in rendered(demo())["destinationrule-triton.yaml"]["spec"]


def test_a_user_stays_with_one_pod_which_has_a_bound(canary: dict[str, Json]) -> None:
    balancer = canary["destinationrule-triton.yaml"]["spec"]["trafficPolicy"]["loadBalancer"]
    assert balancer == {"consistentHash": {"httpHeaderName": "x-user-id"}}
    assert "loadBalancer" not in canary["destinationrule-tollgate.yaml"]["spec"]["trafficPolicy"]
    bound, *retries = patches(canary, "pods")
    assert bound["match"]["cluster"] == {"service": "triton.models.svc.cluster.local"}, "with all ports and subsets"
    named = {one["match"]["routeConfiguration"]["vhost"]["route"]["name"] for one in retries}
    assert named == {route["name"] for route in http(canary) if "retries" in route and route["name"] != "tollgate"}


def test_someone_must_serve_what_no_experiment_is_about() -> None:
    other = Experiment("e", "cancer", {"blue": 50, "green": 50}, "e")
    two = of_kinds(Kind.INFER, experiments={"sentiment": CANARY, "cancer": other})
    with pytest.raises(ConfigError, match="--default-variant: say which of stable, canary, blue, green"):
        rendered(two)
    with pytest.raises(ConfigError, match="--default-variant"):
        rendered(two, Mesh(default_variant="red"))
    assert destination(rendered(two, Mesh(default_variant="blue")), INFER) == ("blue", 8000)


def patches(found: dict[str, Json], what: str) -> list[Json]:
    of: list[Json] = found[f"envoyfilter-tollgate-{what}.yaml"]["spec"]["configPatches"]
    return of


def test_what_istio_has_no_words_for_is_merged_into_the_gateway(canary: dict[str, Json]) -> None:
    reader, check, ejections, *documents = patches(canary, "check")
    assert ejections["match"]["cluster"] == {"service": "tollgate.tollgate.svc.cluster.local", "portNumber": 9000}
    assert ejections["patch"]["value"] == {"common_lb_config": {"update_merge_window": "0s"}}
    of_models = [one for one in documents if "x-authz-upstream" in str(one["patch"])]
    named = {one["match"]["routeConfiguration"]["vhost"]["route"]["name"] for one in of_models}
    assert named == {route["name"] for route in http(canary) if "triton" in str(route.get("route"))}
    *documents, redirect = documents[: -len(of_models)]
    assert redirect["match"]["routeConfiguration"]["vhost"]["route"]["name"] == http_routes(canary)[0]["name"]
    assert "redirect" in redirect["patch"]["value"], "whatever else has that name is redirected, not served unchecked"
    assert [one["match"] for one in documents] == [{"context": "GATEWAY"}] * 3, "not for routes by their names"
    assert {"disabled" in str(one["patch"]["value"]) for one in documents} == {True}
    last, *_, first = [one["patch"]["value"]["match"] for one in documents]
    assert (first["path"], len(first["headers"]), last["path"]) == ("/", 2, "/.well-known/oauth-protected-resource")
    assert reader["patch"]["operation"] == "INSERT_FIRST"
    assert "/inference.GRPCInferenceService/ModelInfer" in str(reader["patch"]["value"])
    assert check["patch"]["operation"] == "MERGE"
    merged = check["patch"]["value"]["typed_config"]
    assert merged["clear_route_cache"] is True
    assert merged["encode_raw_headers"] is True
    assert merged["metadata_context_namespaces"] == ["tollgate.target"]
    assert "x-experiment" in str(merged["allowed_headers"])
    # The address and the timeout are the provider's.
    assert merged["grpc_service"].keys() == {"retry_policy"}
    _, connections, mutation, router, connect, upgrade = patches(canary, "connections")
    assert "x-model-variant" in str(connections["patch"]["value"]["typed_config"]["early_header_mutation_extensions"])
    assert mutation["patch"]["value"]["name"] == "envoy.filters.http.header_mutation"
    assert router["patch"]["value"]["typed_config"]["suppress_envoy_headers"] is True
    assert connect["patch"]["value"]["match"] == {"connect_matcher": {}}
    assert upgrade["patch"]["value"]["match"]["headers"] == [{"name": "upgrade", "present_match": True}]


def test_what_the_api_server_and_the_analyzer_of_istio_refused(canary: dict[str, Json]) -> None:
    assert [route["name"] for route in http(canary) if route.get("timeout") == "0s"] == []
    filters = [one["spec"] for one in canary.values() if one.get("kind") == "EnvoyFilter"]
    assert [one["priority"] for one in filters] == [5, 30, 25, 20, 10, 15]
    (size, _) = patches(canary, "bodies")[2]["patch"]["value"]["match"]["headers"]
    # Istio reads numbers as floats: 2**63 - 1 would become 2**63, which is no int64.
    assert float(size["range_match"]["end"]) < 2**63


def test_a_path_that_istio_would_refuse_is_named() -> None:
    with pytest.raises(ConfigError, match=r"1024 characters at most: shorten the path of /a\\-\\-"):
        rendered(policy(at("/a" + "-" * 600)))


def test_a_dead_authorizer_behind_a_live_sidecar_is_taken_out(canary: dict[str, Json]) -> None:
    """Its sidecar answers UNAVAILABLE: a gateway error, not one of the connection."""
    outliers = canary["destinationrule-tollgate.yaml"]["spec"]["trafficPolicy"]["outlierDetection"]
    assert outliers["consecutiveGatewayErrors"] == 2


def test_every_grpc_route_has_the_limits_of_grpc(canary: dict[str, Json]) -> None:
    buffer, answers, too_large, *merged = patches(canary, "bodies")
    assert (answers["patch"]["operation"], answers["patch"]["value"]["name"]) == ("INSERT_BEFORE", "tollgate.answers")
    assert too_large["patch"]["value"]["direct_response"] == {"status": 413}
    assert buffer["patch"]["value"]["typed_config"]["max_request_bytes"] == 8 * 1024 * 1024
    named = {one["match"]["routeConfiguration"]["vhost"]["route"]["name"]: one["patch"]["value"] for one in merged}
    grpc = {route["name"] for route in http(canary) if "content-type" in str(route.get("match"))}
    assert set(named) == grpc == {f"{v}{k}" for v in ("stable-", "canary-", "") for k in ("grpc", "stream")}
    assert {value["request_body_buffer_limit"] for value in named.values()} == {64 * 1024 * 1024}


def test_only_failed_connections_are_tried_again(canary: dict[str, Json]) -> None:
    for route in (route for route in http(canary) if "route" in route and route["name"] != "tollgate"):
        assert route["headers"]["request"]["remove"] == ["x-envoy-attempt-count", "x-envoy-decorator-operation"]
        assert route["retries"] == {"attempts": 2, "retryOn": "connect-failure"}


def test_an_existing_gateway() -> None:
    found = rendered(demo(), Mesh(bind="edge/models"))
    assert "gateway-tollgate.yaml" not in found
    assert found["virtualservice-tollgate.yaml"]["spec"]["gateways"] == ["edge/models"]


@pytest.mark.parametrize(
    ("hosts", "mesh", "expected"),
    [
        ([("b.example",), ("*.a.example", "b.example")], Mesh(), ["*.a.example", "b.example"]),
        ([("b.example",), ()], Mesh(), ["*"]),
        ([("b.example",), ()], Mesh(hosts=("c.example",)), ["c.example"]),
    ],
)
def test_hosts(hosts: list[tuple[str, ...]], mesh: Mesh, expected: list[str]) -> None:
    found = rendered(policy(*(at(f"/{number}", hosts=of) for number, of in enumerate(hosts))), mesh)
    assert found["virtualservice-tollgate.yaml"]["spec"]["hosts"] == expected
    assert [server["hosts"] for server in found["gateway-tollgate.yaml"]["spec"]["servers"]] == [expected, expected]


def test_tls_is_the_default() -> None:
    plain, server = rendered(demo())["gateway-tollgate.yaml"]["spec"]["servers"]
    assert plain["port"]["protocol"] == "HTTP"
    assert http_routes(rendered(demo()))[0]["redirect"] == {"scheme": "https", "redirectCode": 301}
    assert (server["port"]["protocol"], server["tls"]["minProtocolVersion"]) == ("HTTPS", "TLSV1_2")
    (server,) = rendered(demo(), Mesh(tls_secret=""))["gateway-tollgate.yaml"]["spec"]["servers"]
    assert server["port"]["protocol"] == "HTTP"
    assert "tls" not in server
    assert "redirect" not in str(rendered(demo(), Mesh(tls_secret="")))
    assert "redirect" not in str(rendered(demo(), Mesh(bind="edge/models"))), "of another's Gateway we know no ports"


def http_routes(found: dict[str, Json]) -> list[Json]:
    routes: list[Json] = found["virtualservice-tollgate.yaml"]["spec"]["http"]
    return routes


def test_services_are_for_who_does_not_have_the_chart() -> None:
    """Istio takes the protocol from the names of their ports."""
    assert [name for name in rendered(demo()) if name.startswith("service-")] == []
    mesh = Mesh(services=True, triton=Workload("ml", "server", {"run": "t"}))
    found = rendered(demo(), mesh)
    assert found["service-tollgate.yaml"]["spec"] == {
        "selector": {"app": "tollgate"},
        "ports": [{"name": "grpc", "port": 9000, "protocol": "TCP"}],
    }
    assert found["service-server.yaml"]["metadata"]["namespace"] == "ml"
    assert found["service-server.yaml"]["spec"]["selector"] == {"run": "t"}
    ports = {port["name"]: port["port"] for port in found["service-server.yaml"]["spec"]["ports"]}
    assert ports == {"http": 8000, "grpc": 8001}


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (("https://id.example/a", "https://id.example/b"), {"tollgate-keys-id-example": (443, "HTTPS")}),
        (("https://id.example:8443/a",), {"tollgate-keys-id-example-8443": (8443, "HTTPS")}),
        (("http://id.example/a",), {"tollgate-keys-id-example": (80, "HTTP")}),
        (("https://keycloak.auth.svc/a", "https://keycloak.auth.svc.cluster.local/a", "https://keycloak/a"), {}),
        (("http://127.0.0.1:1/a", "http://localhost:1/a", "https://[2001:db8::1]/a"), {}),
    ],
)
def test_the_authorizer_may_reach_the_keys_of_issuers(
    urls: tuple[str, ...], expected: dict[str, tuple[int, str]]
) -> None:
    (issuer, *_) = demo().issuers
    issuers = tuple(replace(issuer, jwks_url=url) for url in urls)
    entries = service_entries(policy(at("/x"), issuers=issuers), Mesh())
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0] for one in entries}
    assert {name: (port["number"], port["protocol"]) for name, port in ports.items()} == expected
    assert {one["metadata"]["namespace"] for one in entries} <= {"tollgate"}


def service_entries(policy: Policy, mesh: Mesh) -> list[Json]:
    return [one for name, one in rendered(policy, mesh).items() if name.startswith("serviceentry-")]


def test_the_console_may_reach_the_issuer_and_the_authorizer_the_keys_of_both() -> None:
    (issuer, *_) = demo().issuers
    issuers = (replace(issuer, jwks_url="https://keys.example/a"),)
    entries = service_entries(policy(at("/x"), issuers=issuers, tokens=TOKENS), Mesh())
    assert {one["spec"]["hosts"][0] for one in entries} == {"id.example", "keys.example", "models.example"}
    apart = replace(Mesh(), console=workload("desk/console"))
    entries = service_entries(policy(at("/x"), issuers=issuers, tokens=TOKENS), apart)
    found = sorted((one["metadata"]["namespace"], one["spec"]["hosts"][0]) for one in entries)
    assert found == [
        ("desk", "id.example"),
        ("desk", "keys.example"),
        ("tollgate", "keys.example"),
        ("tollgate", "models.example"),
    ]


def test_only_the_gateway_may_call_the_console_but_for_its_keys() -> None:
    mesh = Mesh(metrics_principals=("cluster.local/ns/monitoring/sa/prometheus",))
    found = rendered(policy(at("/x"), tokens=TOKENS), mesh)
    rules = found["authorizationpolicy-tollgate-console-gateway-only.yaml"]["spec"]["rules"]
    assert {tuple(rule["from"][0]["source"]["principals"]): rule["to"][0]["operation"]["ports"] for rule in rules} == {
        ("cluster.local/ns/istio-ingress/sa/istio-ingress",): ["9010", "9011"],
        ("cluster.local/ns/tollgate/sa/tollgate",): ["9010"],
        ("cluster.local/ns/monitoring/sa/prometheus",): ["9012"],
    }
    assert found["peerauthentication-tollgate-console.yaml"]["spec"]["mtls"] == {"mode": "STRICT"}
    assert not any("console" in name for name in rendered(policy(at("/x")), mesh))


def test_istio_verifies_own_tokens_by_keys_that_it_can_fetch() -> None:
    tokens = replace(TOKENS, issuer=replace(TOKENS.issuer, jwks_url="http://tollgate-console.tollgate.svc:9010/x"))
    found = rendered(policy(at("/x"), tokens=tokens), REFERENCE_MESH)
    *_, own = found["requestauthentication-tollgate.yaml"]["spec"]["jwtRules"]
    assert (own["issuer"], own["jwksUri"]) == (TOKENS.issuer.issuer, TOKENS.issuer.jwks_url)


def test_bounds_are_the_callers_choice() -> None:
    found = rendered(demo(), Mesh(), Timeouts(check=1, request=7, rest_bytes=1234, grpc_bytes=5678, checks=90))
    assert found[MESH_CONFIG]["meshConfig"]["extensionProviders"][0]["envoyExtAuthzGrpc"]["timeout"] == "1s"
    assert {route.get("timeout") for route in http(found)} == {None, "7s"}
    text = as_yaml(found["envoyfilter-tollgate-bodies.yaml"])
    for expected in ("max_request_bytes: 1234", "request_body_buffer_limit: 5678"):
        assert expected in text
    assert "http2MaxRequests: 90" in as_yaml(found["destinationrule-tollgate.yaml"])
    assert "max_stream_duration: 607s" in as_yaml(found["envoyfilter-tollgate-connections.yaml"])


def test_without_a_limit_by_address() -> None:
    assert "envoyfilter-tollgate-addresses.yaml" in rendered(demo())
    assert "envoyfilter-tollgate-addresses.yaml" not in rendered(demo(), Mesh(address_rate=0))


def test_the_gateway_reads_the_address_where_the_authorizer_does(canary: dict[str, Json]) -> None:
    behind_a_proxy = rendered(replace(demo(), trusted_hops=3))
    assert "xff_num_trusted_hops: 2" in as_yaml(behind_a_proxy["envoyfilter-tollgate-connections.yaml"])
    for hops in (0, 1):
        found = rendered(replace(demo(), trusted_hops=hops))
        assert "xff_num_trusted_hops" not in as_yaml(found["envoyfilter-tollgate-connections.yaml"])


def test_a_workload_is_a_namespace_and_a_service() -> None:
    assert workload("a/b") == Workload("a", "b", {"app": "b"})
    for wrong in ("b", "a/b/c", "A/b", "a/", "a/b\n"):
        with pytest.raises(ConfigError, match="namespace/name"):
            workload(wrong)
