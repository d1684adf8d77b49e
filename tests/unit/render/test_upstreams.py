"""The way to applications of a policy: by the authorizer's header, with their own cookies only."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest
from lupa.luajit21 import LuaRuntime
from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Cors, Policy, Route
from ext_authz.render.endpoints import Address, Endpoints, Json
from ext_authz.render.envoy import bootstrap
from ext_authz.render.gateway_api.objects import objects as gateway_api_objects
from ext_authz.render.istio.mesh import Mesh, application
from ext_authz.render.istio.objects import objects as istio_objects
from ext_authz.render.upstreams import settings
from tests.unit.render.policies import at, policy

SHOP = Route("shop", "/shop/{rest=**}", frozenset({"GET"}), public=True, upstream="shop")
POLICY = policy(at("/{rest=**}"), SHOP, cors=Cors(("https://app.example",)))
MESH = Mesh(upstreams={"shop": application("shops/till:8080")})


def envoy(upstreams: dict[str, Address], of: Policy = POLICY) -> Json:
    found: Json = bootstrap(of, replace(Endpoints(), upstreams=upstreams))["static_resources"]
    return found


def routes(found: Json) -> list[Json]:
    manager = found["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes: list[Json] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def test_the_authorizer_says_which_calls_are_of_the_application() -> None:
    found = envoy({"shop": Address("till", 8080)})
    (route,) = [each for each in routes(found) if each.get("route", {}).get("cluster") == "upstream_shop"]
    assert route["match"]["headers"] == [{"name": "x-authz-upstream", "string_match": {"exact": "shop"}}]
    assert set(route["typed_per_filter_config"]) == {"tollgate.answers", "tollgate.cors"}
    cluster = next(each for each in found["clusters"] if each["name"] == "upstream_shop")
    assert '"address": "till", "port_value": 8080' in json.dumps(cluster)


def test_what_has_no_address_gets_404_and_not_to_a_model_that_serves_all_paths() -> None:
    """Whatever the authorizer calls it: its policy may be newer than this configuration."""
    assert "upstream_" not in json.dumps(envoy({}))
    found = routes(envoy({}))
    others = {"prefix": "/", "headers": [{"name": "x-authz-upstream", "present_match": True}]}
    (at,) = [at for at, each in enumerate(found) if each["match"] == others]
    assert found[at]["direct_response"] == {"status": 404}
    assert not any("triton" in str(each.get("route")) for each in found[:at])
    assert any("triton" in str(each.get("route")) for each in found[at:])


def test_no_model_gets_a_cookie_of_an_application() -> None:
    of_models = [each for each in routes(envoy({})) if "triton" in str(each.get("route"))]
    assert of_models
    assert all(each["request_headers_to_remove"] == ["cookie"] for each in of_models)


@pytest.mark.parametrize(("kind", "objects"), [("VirtualService", istio_objects), ("HTTPRoute", gateway_api_objects)])
def test_in_a_mesh(kind: str, objects: object) -> None:
    mesh = MESH if kind == "VirtualService" else replace(MESH, gateway_api="tollgate")
    found = [one.content for one in objects(POLICY, mesh)]  # type: ignore[operator]
    spec = str([one["spec"] for one in found if one.get("kind") == kind and "redirect" not in one["metadata"]["name"]])
    assert "application.shop" in spec
    assert "x-authz-upstream" in spec
    of_till = {one["kind"] for one in found if one.get("metadata", {}).get("namespace") == "shops"}
    assert {"DestinationRule", "PeerAuthentication", "AuthorizationPolicy"} <= of_till
    assert ("ReferenceGrant" in of_till) is (kind == "HTTPRoute")
    (bodies,) = [one for one in found if one.get("metadata", {}).get("name") == "tollgate-bodies"]
    assert 'local NAME = "shop"' in str(bodies)
    without = objects(POLICY, replace(mesh, upstreams={}))  # type: ignore[operator]
    assert not any("application." in one.text() for one in without)
    (check,) = [one for one in without if one.path.endswith("envoyfilter-tollgate-check.yaml")]
    of_none = {"headers": [{"name": "x-authz-upstream", "present_match": True, "invert_match": True}]}
    patches = [
        each for each in check.content["spec"]["configPatches"] if each["patch"]["value"].get("match") == of_none
    ]
    assert [each["match"]["routeConfiguration"]["vhost"]["route"]["name"] for each in patches] == ["rest"]


@pytest.mark.parametrize("text", ["shops/till", "till:80", "shops/till:0", "shops/till:x", "shops/till:70000"])
def test_an_application_of_a_mesh_is_a_service_with_a_port(text: str) -> None:
    with pytest.raises(ConfigError, match="namespace/name:port"):
        application(text)


_ENVOY = """
function run(script, name, values)
  local headers, handle = {}, {}
  function headers:getNumValues(asked) return asked == name and #values or 0 end
  function headers:getAtIndex(_, index) return values[index + 1] end
  function headers:remove() values = {} end
  function headers:add(_, value) values[#values + 1] = value end
  function handle:headers() return headers end
  script(handle)
  return values
end
"""


def kept(script: str, name: str, values: Sequence[str]) -> list[str]:
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.execute(settings(POLICY, "shop")["tollgate.answers"]["source_code"]["inline_string"])
    lua.execute(_ENVOY)
    return [*lua.eval("run")(lua.eval(script), name, lua.table(*values)).values()]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (["shop=1; tollgate=2; shop.sign-in=3"], ["shop=1; shop.sign-in=3"]),
        (["__Host-tollgate=1;__Host-shop=2;__Secure-shop.x=3"], ["__Host-shop=2; __Secure-shop.x=3"]),
        (["tollgate=1", "shop=2"], ["shop=2"]),
        (["shopping=1; shop-2=1; Shop=1; xshop=1; =shop; ; shop"], ["shop"]),
        (["tollgate=shop=1"], []),
        (["\tshop=1 \t; shop =2;shop.=3;  ", '"shop=1; shop="a b" '], ['shop=1; shop.=3; shop="a b"']),
        ([], []),
    ],
)
def test_an_application_gets_its_own_cookies(sent: list[str], expected: list[str]) -> None:
    assert kept("envoy_on_request", "cookie", sent) == expected


def test_no_cookie_takes_long() -> None:
    """A worker of Envoy does nothing else meanwhile, and anybody may send one to a public route."""
    long, began = f"shop=a{' ' * 60_000}b", time.process_time()
    assert kept("envoy_on_request", "cookie", [f"{long}  "]) == [long]
    assert time.process_time() - began < 2


def test_an_application_sets_its_own_cookies() -> None:
    sent = ["shop=1; Path=/", "__Host-tollgate=evil; Path=/", "__Host-shop=2; Secure", "tollgate=1; Path=/; shop=2"]
    assert kept("envoy_on_response", "set-cookie", sent) == ["shop=1; Path=/", "__Host-shop=2; Secure"]
