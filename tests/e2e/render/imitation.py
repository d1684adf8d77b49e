"""What istiod makes of our objects, in the small: enough to see in a real Envoy what they do there.

Written after istio/istio: extauthz.go (the provider), route.go (a VirtualService), listener_patch.go and
route_patch.go (EnvoyFilters; protobuf's merge appends to lists).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from ext_authz.render.clusters import clusters, envoy_address, triton_cluster
from ext_authz.render.endpoints import Endpoints, Timeouts
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.filters import EXTENSIONS
from ext_authz.render.istio import MESH_CONFIG

Json = dict[str, Any]

_CONNECTIONS = "envoy.filters.network.http_connection_manager"


def gateway(objects: dict[str, Json], served: ExposedPaths, endpoints: Endpoints) -> Json:
    """The configuration of the gateway's Envoy, with the clusters of one machine."""
    routes = [route for rule in _spec(objects, "virtualservice-tollgate")["http"] for route in _routes(rule)]
    listener = _listener(objects, routes, endpoints)
    for name in ("connections", "check", "bodies"):
        for patch in _spec(objects, f"envoyfilter-tollgate-{name}")["configPatches"]:
            assert patch["match"].pop("context") == "GATEWAY"
            _apply(patch["applyTo"], patch["match"], patch["patch"], listener)
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "layered_runtime": {"layers": [{"name": "istio", "static_layer": {"re2.max_program_size.error_level": 32768}}]},
        "static_resources": {
            "listeners": [listener],
            "clusters": clusters(served, endpoints, Timeouts(grpc_bytes=1024 * 1024)),
        },
    }


def _spec(objects: dict[str, Json], name: str) -> Json:
    return deepcopy(objects[f"{name}.yaml"]["spec"])


def _listener(objects: dict[str, Json], routes: list[Json], endpoints: Endpoints) -> Json:
    (provider,) = objects[MESH_CONFIG]["meshConfig"]["extensionProviders"]
    asked = provider["envoyExtAuthzGrpc"]
    check = {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": asked["timeout"]},
        "failure_mode_allow": asked["failOpen"],
        "status_on_error": {"code": int(asked["statusOnError"])},
    }  # clearRouteCache is not among what Istio takes over (istio#61558)
    manager = {
        "stat_prefix": "outbound_0.0.0.0_443",
        "use_remote_address": True,
        "normalize_path": True,
        "http_filters": [
            _typed("envoy.filters.http.ext_authz", "filters.http.ext_authz.v3.ExtAuthz", check),
            _typed("envoy.filters.http.router", "filters.http.router.v3.Router", {}),
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "*:443", "domains": ["*"], "routes": routes, "include_request_attempt_count": True}
            ]
        },
    }
    chain = {
        "filters": [_typed(_CONNECTIONS, "filters.network.http_connection_manager.v3.HttpConnectionManager", manager)]
    }
    return {"name": "gateway", "address": envoy_address(endpoints.listen), "filter_chains": [chain]}


def _typed(name: str, kind: str, config: Json) -> Json:
    return {"name": name, "typed_config": {"@type": f"{EXTENSIONS}.{kind}", **config}}


def _routes(rule: Json) -> Iterable[Json]:
    for match in rule.get("match", [{"uri": {"prefix": "/"}}]):
        yield {"name": rule["name"], "match": _match(match), **_action(rule), **_headers(rule.get("headers", {}))}


def _match(match: Json) -> Json:
    uri = match["uri"]
    ((how, text),) = uri.items()
    path: Json = (
        {"safe_regex": {"regex": text}} if how == "regex" else {{"exact": "path", "prefix": "prefix"}[how]: text}
    )
    wanted = {**({":method": match["method"]} if "method" in match else {}), **match.get("headers", {})}
    headers = [{"name": name, "string_match": _text(how)} for name, how in wanted.items()]
    return {**path, "headers": headers}


def _text(how: Json) -> Json:
    return {"safe_regex": {"regex": how["regex"]}} if "regex" in how else how


def _action(rule: Json) -> Json:
    if answer := rule.get("directResponse"):
        body = {"body": {"inline_string": answer["body"]["string"]}} if "body" in answer else {}
        return {"direct_response": {"status": answer["status"], **body}}
    (to,) = rule["route"]
    if to["destination"]["host"].startswith("tollgate."):
        return {"route": {"cluster": "authorizer"}}
    protocol = {8000: "http", 8001: "grpc"}[to["destination"]["port"]["number"]]
    # Pods with the label of no variant are the same as those of the default one here.
    subset = to["destination"].get("subset", "")
    retries = {"retry_on": rule["retries"]["retryOn"], "num_retries": rule["retries"]["attempts"]}
    return {
        "route": {
            "cluster": triton_cluster(protocol, subset),
            "timeout": rule.get("timeout", "0s"),
            "retry_policy": retries,
        }
    }


def _headers(headers: Json) -> Json:
    added = {
        f"{side}_headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in headers[side].get("set", {}).items()
        ]
        for side in headers
    }
    return {**added, **{f"{side}_headers_to_remove": headers[side].get("remove", []) for side in headers}}


def _apply(to: str, match: Json, patch: Json, listener: Json) -> None:
    (chain,) = listener["filter_chains"]
    (connections,) = chain["filters"]
    filters, value = connections["typed_config"]["http_filters"], patch["value"]
    (virtual_host,) = connections["typed_config"]["route_config"]["virtual_hosts"]
    routes = virtual_host["routes"]
    match to, patch["operation"]:
        case "LISTENER" | "VIRTUAL_HOST", "MERGE":
            _merge({"LISTENER": listener, "VIRTUAL_HOST": virtual_host}[to], value)
        case "NETWORK_FILTER", "MERGE":
            _merge(_named([connections], match["listener"]["filterChain"]["filter"]["name"]), value)
        case "HTTP_FILTER" | "HTTP_ROUTE", "INSERT_FIRST":
            {"HTTP_FILTER": filters, "HTTP_ROUTE": routes}[to].insert(0, value)
        case "HTTP_FILTER", "INSERT_BEFORE":
            filters.insert(filters.index(_named(filters, _sub_filter(match))), value)
        case "HTTP_FILTER", "MERGE":
            _merge(_named(filters, _sub_filter(match)), value)
        case "HTTP_ROUTE", "MERGE":
            name = match["routeConfiguration"]["vhost"]["route"]["name"]
            for route in [route for route in routes if route.get("name") == name]:
                _merge(route, value)
        case unknown:
            raise AssertionError(unknown)


def _sub_filter(match: Json) -> str:
    return str(match["listener"]["filterChain"]["filter"]["subFilter"]["name"])


def _named(among: list[Json], name: str) -> Json:
    (found,) = [one for one in among if one["name"] == name]
    return found


def _merge(into: Json, value: Json) -> None:
    for key, new in value.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            _merge(old, new)
        else:
            into[key] = [*old, *new] if isinstance(old, list) and isinstance(new, list) else deepcopy(new)
