"""The objects of the Gateway API: what replaces Istio's own, how they are attached, and their limits."""

from __future__ import annotations

import re

import pytest
import yaml
from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.policy.kserve import Kind
from ext_authz.policy.model import Cors, Experiment, Mirror, Policy, Route
from ext_authz.policy.names import CONSOLE_SERVICES
from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.gateway_api import external_auth
from ext_authz.render.gateway_api.objects import objects
from ext_authz.render.istio import objects as istio
from ext_authz.render.istio.access import MESH_CONFIG
from ext_authz.render.istio.mesh import Mesh, Workload
from tests.unit.render.policies import CANARY, EVERYDAY, TOKENS, at, demo, of_kinds, policy
from tests.unit.render.test_istio import REFERENCE as ISTIO
from tests.unit.render.test_istio import unnumbered

REFERENCE = ISTIO / "gateway-api"
MESH = Mesh(gateway_api="tollgate", gateway_account="tollgate-istio")


def rendered(of: Policy, mesh: Mesh = MESH, timeouts: Timeouts = Timeouts()) -> dict[str, Json]:  # noqa: B008
    return {unnumbered(one): one.content for one in objects(of, mesh, timeouts)}


@pytest.fixture(scope="module")
def canary() -> dict[str, Json]:
    return rendered(of_kinds(*EVERYDAY, experiments={"sentiment": CANARY}))


def test_the_reference_is_what_the_demo_policy_gives() -> None:
    """After a change: tollgate policy render gateway-api devstack/stack/policy.yaml --out istio/gateway-api"""
    written = {str(path.relative_to(REFERENCE)): path.read_text() for path in REFERENCE.rglob("*.yaml")}
    assert written == {one.path: one.text() for one in objects(demo(), MESH)}


def test_every_object_of_the_gateway_is_attached_by_its_name(canary: dict[str, Json]) -> None:
    attached = [one["spec"] for one in canary.values() if one.get("kind") in ("AuthorizationPolicy", "EnvoyFilter")]
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "tollgate"}
    of_gateway = [spec for spec in attached if spec.get("action") != "ALLOW"]
    assert [spec["targetRefs"] for spec in of_gateway] == [[reference]] * 8
    assert not [spec for spec in of_gateway if "selector" in spec or "workloadSelector" in spec]
    lock = canary["authorizationpolicy-triton-gateway-only.yaml"]["spec"]
    assert "cluster.local/ns/istio-ingress/sa/tollgate-istio" in str(lock["rules"])


def test_all_else_is_what_istio_gets() -> None:
    """But the routes, of which one kind has a filter more."""
    other = {unnumbered(one): one.content for one in istio.objects(demo(), MESH)}
    replaced = {"gateway-tollgate.yaml", "virtualservice-tollgate.yaml"}
    found = rendered(demo())
    assert {name: one for name, one in other.items() if name not in replaced} == {
        name: found[name] for name in other.keys() - replaced
    }


def rules(found: dict[str, Json], kind: str) -> list[Json]:
    return [rule for one in found.values() if one.get("kind") == kind for rule in one["spec"]["rules"]]


def destination(found: dict[str, Json], path: str, **headers: str) -> tuple[str, int]:
    """Service and port, by Istio's order: exact paths, prefixes, then longer patterns, then more headers."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fitting: list[tuple[tuple[int, int, int], Json]] = []
    for rule in (*rules(found, "HTTPRoute"), *rules(found, "GRPCRoute")):
        for match in rule["matches"] if "backendRefs" in rule else ():
            rank = _fit(match, path)
            wanted = match.get("headers", [])
            if rank and all(_is_as(one, given.get(one["name"], "")) for one in wanted):
                fitting.append(((*rank, len(wanted)), rule["backendRefs"][0]))
    if not fitting:
        return "", 404
    to = max(fitting, key=lambda found: found[0])[1]
    return f"{to['namespace']}/{to['name']}", to["port"]


def _is_as(wanted: Json, value: str) -> bool:
    exact: bool = wanted.get("type", "Exact") == "Exact"
    return wanted["value"] == value if exact else re.fullmatch(wanted["value"], value) is not None


def _fit(match: Json, path: str) -> tuple[int, int] | None:
    if "method" in match:
        exact = f"/{match['method']['service']}/{match['method'].get('method', '*')}"
        return (3, len(exact)) if exact == path else None
    value = match["path"]["value"]
    if match["path"]["type"] == "PathPrefix":
        return (2, len(value)) if f"{path}/".startswith(f"{value}/") else None
    return (1, len(value)) if re.fullmatch(value, path) else None


INFER = "/v2/models/sentiment/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (INFER, {"x_model_variant": "canary"}, ("models/triton-canary", 8000)),
        (INFER, {}, ("models/triton-stable", 8000)),
        (RPC, {"x_model_variant": "canary", "content_type": "application/grpc+proto"}, ("models/triton-canary", 8001)),
        (RPC, {"content_type": "application/grpc"}, ("models/triton-stable", 8001)),
        (RPC, {"x_model_variant": "canary"}, ("", 404)),
        (RPC, {"content_type": "application/grpcx"}, ("", 404)),
        ("/v2/repository/index", {"x_model_variant": "canary"}, ("", 404)),
        ("/.tollgate/quota", {"x_model_variant": "canary"}, ("tollgate/tollgate", 9000)),
    ],
)
def test_the_authorizers_header_chooses_the_variant(
    canary: dict[str, Json], path: str, headers: dict[str, str], expected: tuple[str, int]
) -> None:
    assert destination(canary, path, **headers) == expected


def test_calls_of_one_model_by_the_first_variant_are_copied_and_streams_are_not() -> None:
    mirrored = replace(CANARY, mirror=Mirror("canary", 25))
    found = rendered(of_kinds(*EVERYDAY, tokens=TOKENS, experiments={"sentiment": mirrored}))
    every = [*rules(found, "HTTPRoute"), *rules(found, "GRPCRoute")]
    copied = {rule["name"]: rule for rule in every if "RequestMirror" in str(rule.get("filters"))}
    assert list(copied) == ["stable-rest-sentiment", "stable-grpc-sentiment"]
    for (name, rule), port in zip(copied.items(), (8000, 8001), strict=True):
        (mirror,) = (one["requestMirror"] for one in rule["filters"] if one["type"] == "RequestMirror")
        assert mirror == {"backendRef": {"name": "triton-canary", "namespace": "models", "port": port}, "percent": 25}
        (plain,) = (one for one in every if one["name"] == name.removesuffix("-sentiment"))
        assert rule["backendRefs"] == plain["backendRefs"]
        for match, other in zip(rule["matches"], plain["matches"], strict=True):
            named = (("x-authz-model", "sentiment"), ("x-authz-version", "*"))
            of_model = [{"name": name, "type": "Exact", "value": value} for name, value in named]
            assert match == {**other, "headers": [*other["headers"], *of_model]}
    stable = {"x_model_variant": "stable", "content_type": "application/grpc"}
    for model in ("sentiment", "cancer"):
        for version in ("*", "1"):
            target = {"x_authz_model": model, "x_authz_version": version}
            assert destination(found, RPC, **stable, **target) == ("models/triton-stable", 8001)
    merged = found["envoyfilter-tollgate-routes.yaml"]["spec"]["configPatches"]
    assert set(copied) <= {
        one["match"]["routeConfiguration"]["vhost"]["route"]["name"]
        for one in merged
        if "route" in one["patch"]["value"]
    }


def test_a_variant_is_a_service_and_no_other_namespace_may_route_to_it(canary: dict[str, Json]) -> None:
    service = canary["service-triton-canary.yaml"]
    assert service["metadata"]["namespace"] == "models"
    assert service["spec"]["selector"] == {"app": "triton", "variant": "canary"}
    assert [port["name"] for port in service["spec"]["ports"]] == ["http", "grpc"]
    grant = canary["referencegrant-tollgate-triton.yaml"]["spec"]
    assert {one["namespace"] for one in grant["from"]} == {"istio-ingress"}
    assert {one["name"] for one in grant["to"]} == {"triton-stable", "triton-canary"}
    for listener in canary["gateway-tollgate.yaml"]["spec"]["listeners"]:
        assert listener["allowedRoutes"] == {"namespaces": {"from": "Same"}}
    assert "subsets" not in str(canary)
    assert "weight" not in str([rules(canary, "HTTPRoute"), rules(canary, "GRPCRoute")])


def test_what_routes_cannot_say_is_merged_into_them(canary: dict[str, Json]) -> None:
    *merged, last, to_https = canary["envoyfilter-tollgate-routes.yaml"]["spec"]["configPatches"]
    named = {one["match"]["routeConfiguration"]["vhost"]["route"]["name"]: one["patch"]["value"] for one in merged}
    assert set(named) == {rule["name"] for rule in (*rules(canary, "HTTPRoute"), *rules(canary, "GRPCRoute"))} - {
        "own",
        "redirect",
    }
    assert {value["route"]["retry_policy"]["retry_on"] for value in named.values()} == {"connect-failure"}
    assert {name for name, value in named.items() if "timeout" in value["route"]} == {
        "grpc",
        "stable-grpc",
        "canary-grpc",
    }
    assert (last["patch"]["operation"], last["patch"]["value"]["direct_response"]) == ("ADD", {"status": 404})
    assert to_https["match"]["routeConfiguration"] == {"portNumber": 80}


def test_plain_http_is_redirected(canary: dict[str, Json]) -> None:
    assert [listener["name"] for listener in canary["gateway-tollgate.yaml"]["spec"]["listeners"]] == ["http", "https"]
    assert canary["httproute-tollgate-redirect.yaml"]["spec"]["parentRefs"] == [
        {"name": "tollgate", "sectionName": "http"}
    ]
    assert canary["httproute-tollgate.yaml"]["spec"]["parentRefs"] == [{"name": "tollgate", "sectionName": "https"}]
    plain = rendered(demo(), Mesh(gateway_api="tollgate", tls_secret=""))
    assert "httproute-tollgate-redirect.yaml" not in plain
    assert plain["grpcroute-tollgate.yaml"]["spec"]["parentRefs"][0]["sectionName"] == "http"


def test_an_existing_gateway() -> None:
    found = rendered(demo(), Mesh(gateway_api="edge", bind="edge"))
    assert "gateway-edge.yaml" not in found
    assert "https_redirect" not in str(found)
    assert found["httproute-tollgate.yaml"]["spec"]["parentRefs"] == [{"name": "edge"}]
    assert found["authorizationpolicy-tollgate.yaml"]["spec"]["targetRefs"][0]["name"] == "edge"


def test_limits_of_a_route_make_more_routes() -> None:
    weights = {f"v{number}": 1 for number in range(30)}
    many = of_kinds(*EVERYDAY, experiments={"m": Experiment("m", "m", weights, "m")})
    hosts = tuple(f"h{number}.example" for number in range(20))
    found = rendered(many, Mesh(gateway_api="tollgate", hosts=hosts))
    routes = [one["spec"] for one in found.values() if one.get("kind") in ("HTTPRoute", "GRPCRoute")]
    for spec in routes:
        assert len(spec["rules"]) <= 16
        assert len(spec["hostnames"]) <= 16
        assert sum(len(rule["matches"]) for rule in spec["rules"]) < 128
        names = [rule.get("name") for rule in spec["rules"]]
        assert len(names) == len(set(names))
    once = [rule["name"] for spec in routes if "h0.example" in spec["hostnames"] for rule in spec["rules"]]
    assert {f"v{number}-grpc" for number in range(30)} <= set(once)
    assert found["httproute-tollgate-2.yaml"]["metadata"]["name"] == "tollgate-2"


def test_a_rule_with_too_many_paths_is_split() -> None:
    paths = [f"/pkg.Service{number}/Call" for number in range(100)]
    found = rendered(policy(*(at(path, grpc=True) for path in paths)))
    parts = [one["spec"]["rules"] for one in found.values() if one.get("kind") == "GRPCRoute"]
    assert sorted((rule["name"], len(rule["matches"])) for (rule,) in parts) == [("grpc", 36), ("grpc", 64)]


@pytest.mark.parametrize(
    ("path", "service", "method"),
    [("/pkg.Echo/{method}", r"pkg\.Echo", "[^/%]+"), ("/p-q.Echo/Call", r"p\-q\.Echo", "Call")],
)
def test_what_is_no_plain_method_is_a_pattern(path: str, service: str, method: str) -> None:
    (rule,) = rules(rendered(policy(at(path, grpc=True))), "GRPCRoute")
    assert rule["matches"][0]["method"] == {"type": "RegularExpression", "service": service, "method": method}


@pytest.mark.parametrize("variant", ["Blue", "v_2", "v2-", "v" * 60, "a.b", "é"])
def test_a_variant_that_is_no_name_of_a_service_is_refused(variant: str) -> None:
    of = of_kinds(Kind.INFER, experiments={"m": Experiment("m", "m", {variant: 1}, "m")})
    with pytest.raises(ConfigError, match=f"variant '{variant}': the Gateway API needs a Service for each variant"):
        rendered(of)


def test_a_long_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="1024 characters at most"):
        rendered(policy(at("/a" + "-" * 600)))


@pytest.mark.parametrize(("seconds", "expected"), [(60, "60s"), (0.5, "500ms"), (2.25, "2s250ms")])
def test_durations_have_no_fractions(seconds: float, expected: str) -> None:
    found = rendered(demo(), timeouts=Timeouts(request=seconds))
    timeouts = [rule["timeouts"] for rule in rules(found, "HTTPRoute") if "timeouts" in rule]
    assert timeouts == [{"request": expected}] * 2


def test_every_object_is_plain_yaml(canary: dict[str, Json]) -> None:
    for one in objects(demo(), MESH):
        assert yaml.safe_load(one.text()) == one.content
    assert MESH_CONFIG in canary


def test_the_console_has_its_own_rules_and_models_get_no_cookie() -> None:
    found = rendered(of_kinds(*EVERYDAY, tokens=TOKENS, experiments={"sentiment": CANARY}))
    (http,) = [rule for rule in rules(found, "HTTPRoute") if rule["name"] == "console"]
    assert http["matches"] == [{"path": {"type": "PathPrefix", "value": "/tollgate"}}]
    (rpc,) = [rule for rule in rules(found, "GRPCRoute") if rule["name"] == "console-rpc"]
    assert [match["method"] for match in rpc["matches"]] == [
        {"type": "Exact", "service": service} for service in CONSOLE_SERVICES
    ]
    to = [rule["backendRefs"][0] for rule in (http, rpc)]
    assert [(one["name"], one["port"]) for one in to] == [("tollgate-console", 9010), ("tollgate-console", 9011)]
    assert "cookie" not in str(http) + str(rpc)
    of_models = [
        rule
        for kind in ("HTTPRoute", "GRPCRoute")
        for rule in rules(found, kind)
        if "triton" in str(rule.get("backendRefs"))
    ]
    assert of_models
    for rule in of_models:
        request, response = rule["filters"]
        assert "cookie" in request["requestHeaderModifier"]["remove"]
        assert response["responseHeaderModifier"]["remove"] == ["set-cookie"]
    (grant,) = [one for name, one in found.items() if name == "referencegrant-tollgate-tollgate-console.yaml"]
    assert grant["spec"]["to"] == [{"group": "", "kind": "Service", "name": "tollgate-console"}]


class TestExternalAuth:
    MESH = Mesh(gateway_api="tollgate", gateway_class="some", tls_secret="")

    def rendered(self, of: Policy, mesh: Mesh = MESH) -> dict[str, Json]:
        return {unnumbered(one): one.content for one in external_auth.objects(of, mesh)}

    def test_every_rule_has_the_check(self) -> None:
        found = self.rendered(of_kinds(*EVERYDAY))
        assert {one["kind"] for one in found.values()} == {"Gateway", "HTTPRoute", "ReferenceGrant"}
        every = rules(found, "HTTPRoute")
        assert [rule["name"] for rule in every] == ["own", "rest", "grpc", "stream"]
        for rule in every:
            strip, check = rule["filters"]
            assert "x-model-variant" in strip["requestHeaderModifier"]["remove"]
            auth = check["externalAuth"]
            assert (auth["protocol"], auth["backendRef"]["name"]) == ("GRPC", "tollgate")
            assert "authorization" in auth["grpc"]["allowedHeaders"]
            assert "cookie" not in auth["grpc"]["allowedHeaders"]
            assert "forwardBody" not in auth

    def test_the_console_keeps_its_cookies(self) -> None:
        found = self.rendered(of_kinds(*EVERYDAY, tokens=TOKENS))
        every = {rule["name"]: rule for rule in rules(found, "HTTPRoute")}
        assert list(every) == ["own", "console", "console-rpc", "rest", "grpc", "stream"]
        stripped = {
            name: "cookie" in rule["filters"][0]["requestHeaderModifier"]["remove"] for name, rule in every.items()
        }
        assert [name for name, holds in stripped.items() if holds] == ["rest", "grpc", "stream"]
        assert [match["path"]["value"] for match in every["console-rpc"]["matches"]] == [
            f"/{service}" for service in CONSOLE_SERVICES
        ]

    def test_calls_that_nobody_could_decide_have_no_route(self) -> None:
        """Else the authorizer would refuse each with `model_missing`."""
        found = self.rendered(of_kinds(*EVERYDAY))
        paths = [match["path"]["value"] for rule in rules(found, "HTTPRoute") for match in rule["matches"]]
        assert RPC not in paths
        assert "/inference.GRPCInferenceService/ModelStreamInfer" in paths
        (first, *_) = external_auth.left_out(of_kinds(*EVERYDAY))
        assert "ModelInfer, ModelMetadata" in first

    def test_streams_have_no_time_limit(self) -> None:
        (stream,) = [rule for rule in rules(self.rendered(demo()), "HTTPRoute") if rule["name"] == "stream"]
        assert stream["timeouts"] == {"request": "0s"}
        assert stream["matches"][0]["headers"][0]["name"] == "content-type"

    def test_what_the_gateway_cannot_do_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="--external-auth: the policy has experiments"):
            self.rendered(of_kinds(Kind.INFER, experiments={"sentiment": CANARY}))
        with pytest.raises(ConfigError, match="Istio's gateways do not know that filter"):
            self.rendered(demo(), Mesh(gateway_api="tollgate"))
        with pytest.raises(ConfigError, match="leave one out"):
            self.rendered(demo(), replace(self.MESH, ambient=True))
        shop = Route("shop", "/{rest=**}", frozenset({"GET"}), hosts=("shop.example",), public=True, upstream="shop")
        assert self.rendered(policy(at("/predict"), replace(shop, path="/shop/{rest=**}")))
        with pytest.raises(ConfigError, match=r"/predict is a path of models, and of the application shop too \(route"):
            self.rendered(policy(at("/predict"), shop))
        many = frozenset(f"x-{number}" for number in range(70))
        with pytest.raises(ConfigError, match="reads 78 headers, and the filter sends 64 at most"):
            self.rendered(policy(at("/a", headers=many)))

    def test_an_existing_gateway_gets_routes_alone(self) -> None:
        found = self.rendered(demo(), Mesh(gateway_api="edge", bind="edge", gateway_class="some"))
        assert {one["kind"] for one in found.values()} == {"HTTPRoute", "ReferenceGrant"}

    def test_pages_need_settings_of_the_gateway(self) -> None:
        cors = Cors(("https://app.example.com",), ("authorization",), ())
        assert "calls from web pages (cors)" in str([*external_auth.left_out(of_kinds(Kind.HEALTH, cors=cors))])

    def test_it_does_not_pass_client_certificates_on(self) -> None:
        bound = of_kinds(Kind.HEALTH, issuers=(replace(demo().issuers[0], cnf="verify"),))
        assert "client certificate" in str([*external_auth.left_out(bound)])
        assert "client certificate" not in str([*external_auth.left_out(of_kinds(Kind.HEALTH))])


class TestAmbient:
    MESH = Mesh(gateway_api="tollgate", gateway_account="tollgate-istio", ambient=True)

    def test_only_who_checks_may_call(self) -> None:
        found = rendered(demo(), self.MESH)
        for name in ("authorizationpolicy-triton-gateway-only.yaml", "authorizationpolicy-tollgate-gateway-only.yaml"):
            (rule,) = found[name]["spec"]["rules"]
            assert rule["from"][0]["source"]["principals"] == [
                "cluster.local/ns/istio-ingress/sa/tollgate-istio",
                "cluster.local/ns/models/sa/tollgate-waypoint",
            ]
            assert rule["to"][0]["operation"].keys() == {"ports"}, "ztunnel knows no more"

    def test_no_pod_is_chosen_by_the_user(self) -> None:
        """At a waypoint nothing bounds its calls, or tries another one."""
        found = rendered(demo(), self.MESH)
        assert "envoyfilter-tollgate-pods.yaml" not in found
        assert "loadBalancer" not in found["destinationrule-triton.yaml"]["spec"]["trafficPolicy"]

    def test_calls_to_triton_go_through_the_waypoint_which_checks(self) -> None:
        found = rendered(demo(), self.MESH)
        labels = found["namespace-models.yaml"]["metadata"]["labels"]
        assert labels == {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "tollgate-waypoint"}
        assert found["namespace-tollgate.yaml"]["metadata"]["labels"] == {"istio.io/dataplane-mode": "ambient"}
        assert found["gateway-tollgate-waypoint.yaml"]["spec"]["gatewayClassName"] == "istio-waypoint"
        check = found["authorizationpolicy-tollgate-waypoint.yaml"]
        assert check["metadata"]["namespace"] == "models"
        assert check["spec"]["targetRefs"][0]["name"] == "tollgate-waypoint"
        assert (check["spec"]["action"], check["spec"]["rules"]) == ("CUSTOM", [{}])

    def test_the_settings_of_the_gateway_are_those_of_the_waypoint(self) -> None:
        found = rendered(demo(), self.MESH)
        names = ("connections", "check", "bodies")
        patches = [
            patch
            for name in names
            for patch in found[f"envoyfilter-tollgate-waypoint-{name}.yaml"]["spec"]["configPatches"]
        ]
        for patch in patches:
            outbound = patch["applyTo"] == "CLUSTER"
            assert patch["match"]["context"] == ("SIDECAR_OUTBOUND" if outbound else "SIDECAR_INBOUND")
            if patch["applyTo"] in ("LISTENER", "NETWORK_FILTER", "HTTP_FILTER"):
                assert patch["match"]["listener"]["name"] == "main_internal", "not the one of tunnels"
        (unbuffered,) = [patch for patch in patches if "routeConfiguration" in patch["match"]]
        assert unbuffered["match"]["routeConfiguration"]["vhost"]["name"] == "inbound|http|8001"

    def test_experiments_need_the_gateway(self) -> None:
        with pytest.raises(ConfigError, match="--ambient: the policy has experiments"):
            rendered(of_kinds(Kind.INFER, experiments={"sentiment": CANARY}), self.MESH)

    def test_one_namespace_for_all(self) -> None:
        mesh = replace(self.MESH, authorizer=Workload("models", "tollgate", {"app": "tollgate"}))
        assert [name for name in rendered(demo(), mesh) if name.startswith("namespace")] == ["namespace-models.yaml"]
