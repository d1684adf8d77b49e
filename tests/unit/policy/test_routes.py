"""Exactly one route applies, the most specific; nothing that the policy does not name gets through."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.policy.kserve import Kind, ModelScope, Right
from ext_authz.policy.model import Route
from ext_authz.policy.names import Encoding
from ext_authz.policy.own_routes import OF_CONSOLE
from ext_authz.policy.routes import OPTIONS, AmbiguousRoutes, RouteTable

GRPC = "/inference.GRPCInferenceService/"


def route(name: str, path: str, *methods: str, hosts: tuple[str, ...] = (), headers: str = "") -> Route:
    asked = frozenset(headers.split())
    return Route(name=name, path=path, methods=frozenset(methods or {"GET"}), hosts=hosts, headers=asked)


def operation(name: str, kind: Kind, *hosts: str) -> Route:
    return Route(name=name, operation=kind, hosts=hosts)


def grpc(name: str, path: str) -> Route:
    return Route(name=name, path=path, methods=frozenset({"POST"}), grpc=True)


def refusal(table: RouteTable, method: str, path: str, host: str = "", headers: Mapping[str, str] = {}) -> Denied:
    with pytest.raises(Denied) as denied:
        table.match(method, path, host, headers)
    return denied.value


TABLE = RouteTable(
    [
        route("root", "/"),
        route("stats", "/v2/models/stats"),
        route("metadata", "/v2/models/{model}", "GET", "HEAD"),
        route("infer", "/v2/models/{model}/infer", "POST"),
        route("infer-version", "/v2/models/{model}/versions/{version}/infer", "POST"),
        route("anything", "/{kind}/stats/now"),
        route("named", "/m/{model}/run/{version}", "PUT"),
        route("files", "/files/{rest=**}"),
        route("one-file", "/files/{name}"),
        route("readme", "/files/readme"),
        route("of-docs", "/files/docs/{rest=**}"),
        route("slash", "/slash/"),
        route("odd-literal", "/v2/models/cancer/versions/01/infer", "POST"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "name", "model", "version"),
    [
        ("GET", "/", "root", "", ""),
        ("GET", "/v2/models/stats", "stats", "", ""),
        ("GET", "/v2/models/cancer", "metadata", "cancer", ""),
        ("POST", "/v2/models/stats/infer", "infer", "stats", ""),
        ("POST", "/v2/models/cancer/versions/12/infer", "infer-version", "cancer", "12"),
        ("GET", "/models/stats/now", "anything", "", ""),
        ("PUT", "/m/cancer/run/3", "named", "cancer", "3"),
        ("GET", "/files/readme", "readme", "", ""),
        ("GET", "/files/other", "one-file", "", ""),
        ("GET", "/files/other/more/still", "files", "", ""),
        ("GET", "/files/other/more/", "files", "", ""),
        ("GET", "/files/docs/a", "of-docs", "", ""),
        ("GET", "/files/readme/a", "files", "", ""),
        ("GET", "/slash/", "slash", "", ""),
        ("POST", "/v2/models/cancer/versions/01/infer", "odd-literal", "", ""),
    ],
)
def test_one_route_applies(method: str, path: str, name: str, model: str, version: str) -> None:
    match = TABLE.match(method, path)
    assert (match.route.name, match.model, match.version) == (name, model, version)


@pytest.mark.parametrize(
    "path",
    [
        *("/v2", "/v2/models", "/v2/models/", "/v2/models/cancer/", "/V2/models/cancer", "/v2/models/a/b"),
        *(
            "/v2/models/a/infer/x",
            "/files",
            "/files/",
            "/files/other/",
            "/files/readme/",
            "/files/docs",
            "/files/docs/",
        ),
        "/slash",
    ],
)
def test_the_rest_is_refused(path: str) -> None:
    assert refusal(TABLE, "GET", path).reason is Reason.NO_ROUTE


CONSOLE = RouteTable(
    [route("all", "/{rest=**}", "GET"), route("here", "/{rest=**}", hosts=("a.example",))], console=True
)


@pytest.mark.parametrize("host", ["", "a.example", "b.example:443"])
@pytest.mark.parametrize(
    ("method", "path", "is_grpc"),
    [
        ("GET", "/tollgate", False),
        ("GET", "/tollgate/", False),
        ("HEAD", "/tollgate/tokens", False),
        ("POST", "/tollgate/signals/k_logout", False),
        ("GET", "/tollgate/.well-known/openid-configuration", False),
        ("DELETE", "/tollgate/api/v1/tokens/a/b/", False),
        ("GET", "/tollgate/api/stac", False),
        ("OPTIONS", "/tollgate/api/stac/search", False),
        ("POST", "/tollgate.tokens.v1.TokenService/CreateToken", True),
        ("POST", "/tollgate.revocation.v1.RevocationService/Revoke", True),
    ],
)
def test_the_console_is_in_front_of_all_routes_on_every_host(method: str, path: str, is_grpc: bool, host: str) -> None:  # noqa: FBT001 - as pytest gives it
    match = CONSOLE.match(method, path, host)
    assert match.route in OF_CONSOLE
    assert (match.route.name, match.route.public, match.grpc) == ("console", True, is_grpc)
    assert (match.scope, match.route.limits, match.operation) == (ModelScope.NONE, (), None)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("OPTIONS", "/tollgate/api/v1/tokens", OPTIONS),
        ("DELETE", "/tollgate/api/stac/search", "method_not_allowed"),
        ("TRACE", "/tollgate/", "method_not_allowed"),
        ("GET", "/tollgate.tokens.v1.TokenService/CreateToken", "method_not_allowed"),
        ("POST", "/tollgate.tokens.v1.TokenService", "route_unknown"),
        ("POST", "/tollgate.tokens.v1.TokenService/CreateToken/x", "route_unknown"),
        ("GET", "/tollgate/a%40b", "path_not_canonical"),
        ("GET", "/tollgate//", "path_not_canonical"),
        ("GET", "/tollgate/../v2", "path_not_canonical"),
        ("CONNECT", "/tollgate/", "method_refused"),
    ],
)
def test_what_the_console_does_not_serve_no_route_does(method: str, path: str, code: str) -> None:
    assert refusal(CONSOLE, method, path).code == code


@pytest.mark.parametrize("path", ["/Tollgate/x", "/tollgates/x", "/v3/tollgate", "/x/tollgate/"])
def test_paths_like_those_of_the_console_are_the_policys(path: str) -> None:
    assert CONSOLE.match("GET", path, "b.example").route.name == "all"


def test_without_tokens_there_is_no_console() -> None:
    table = RouteTable([route("all", "/{rest=**}")])
    assert table.match("GET", "/tollgate/tokens").route.name == "all"
    assert table.match("GET", "/.tollgate/quota").route is table.quota


def test_a_known_path_names_its_methods() -> None:
    denied = refusal(TABLE, "DELETE", "/v2/models/cancer")
    assert (denied.reason, denied.scope) == (Reason.METHOD_NOT_ALLOWED, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2/models/cancer", "GET, HEAD, OPTIONS"),
        ("/v2/models/cancer/infer", "OPTIONS, POST"),
        ("/v2/health/live", "GET, HEAD, OPTIONS"),
        ("/v2/logging", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_options_is_answered_with_the_methods_of_a_path(path: str, allowed: str) -> None:
    operations = RouteTable([Route(kind, operation=kind) for kind in Kind])
    for method, code in (("OPTIONS", OPTIONS), ("DELETE", "method_not_allowed")):
        denied = refusal(operations, method, path)
        assert (denied.code, denied.scope) == (code, allowed)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/", "method_not_allowed"),
        ("OPTIONS", "/", OPTIONS),
        ("OPTIONS", "/other", "route_unknown"),
        ("GET", "/", "route_unknown"),
    ],
)
def test_documents_that_the_proxy_serves_name_their_methods(method: str, path: str, code: str) -> None:
    """GET comes to a check only where no proxy serves them."""
    denied = refusal(RouteTable([route("x", "/x", "GET")], documents=("/",)), method, path)
    assert denied.code == code
    assert denied.scope == ("" if code == "route_unknown" else "GET, HEAD, OPTIONS")


def test_options_of_an_unknown_path_and_where_a_route_serves_it() -> None:
    table = RouteTable([route("own", "/x", "OPTIONS", "POST")])
    assert table.match("OPTIONS", "/x").route.name == "own"
    for method in ("OPTIONS", "HEAD"):
        assert refusal(table, method, "/y").code == "route_unknown"


def test_get_serves_head_unless_a_route_is_for_it() -> None:
    table = RouteTable([route("get", "/x", "GET"), route("own", "/y", "HEAD"), route("other", "/y", "GET")])
    assert table.match("HEAD", "/x").route.name == "get"
    assert table.match("HEAD", "/y").route.name == "own"
    operations = RouteTable([Route(Kind.METADATA, operation=Kind.METADATA)])
    assert operations.match("HEAD", "/v2/models/cancer").model == "cancer"
    for method, path in (("HEAD", "/v2/models/cancer/infer"), ("head", "/v2/models/cancer")):
        refusal(operations, method, path)


def test_a_catch_all_does_not_serve_what_a_closer_route_left_out() -> None:
    table = RouteTable([route("admin", "/admin/users", "GET"), route("all", "/{rest=**}", "GET", "POST")])
    assert refusal(table, "POST", "/admin/users").reason is Reason.METHOD_NOT_ALLOWED


PLACES = ("/files/hr", "/files/hr/", "/files/hr/a", "/files/hr/a/", "/files/other", "/files/other/x/y")


@pytest.mark.parametrize(
    ("closer", "expected"),
    [
        # Of each place: who serves it (closer or wider), or "-": nobody.
        ("/files/hr", "closer - wider wider wider wider"),
        ("/files/hr/", "- closer wider wider wider wider"),
        ("/files/hr /files/hr/", "closer closer wider wider wider wider"),
        ("/files/hr/{rest=**}", "- - closer closer wider wider"),
        ("/files/hr /files/hr/{rest=**}", "closer - closer closer wider wider"),
        ("/files/hr/{name}", "wider wider closer - wider wider"),
        ("/files/{name}", "closer - wider wider closer wider"),
        ("/files/{name}/", "- closer wider wider - wider"),
        ("/files/{name}/{rest=**}", "- - closer closer - closer"),
        ("/files/{name} /files/hr/{rest=**}", "- - closer closer closer wider"),
        ("/files/{name}/ /files/hr/{rest=**}", "- - closer closer - wider"),
        # The first segment decides before the second.
        ("/{any}/hr/{rest=**}", "wider wider wider wider wider wider"),
    ],
)
def test_a_closer_template_keeps_wider_ones_away_from_its_place(closer: str, expected: str) -> None:
    wider = [route("wider", "/files/{rest=**}"), route("widest", "/{rest=**}", "GET", "POST")]
    table = RouteTable([*(route("closer", template) for template in closer.split()), *wider])
    assert [_server(table, path) for path in PLACES] == expected.split()


def test_the_rules_of_a_host_keep_those_of_any_host_away_from_their_place() -> None:
    closer = [route("closer", path, hosts=("h.example",)) for path in ("/files/hr", "/files/hr/{rest=**}")]
    table = RouteTable([*closer, route("wider", "/files/{rest=**}")])
    assert [_server(table, path) for path in PLACES] == ["closer", "-", "closer", "closer", "wider", "wider"]
    assert {_server(table, path, "other.example") for path in PLACES} == {"wider"}


def _server(table: RouteTable, path: str, host: str = "h.example") -> str:
    try:
        return table.match("GET", path, host).route.name
    except Denied as denied:
        return "-" if denied.code == "route_unknown" else denied.code


@pytest.mark.parametrize("version", ["01", "0", "+1", "1abc", "1.9", "-1", "1" * 19])
def test_versions_that_triton_would_repair_are_refused(version: str) -> None:
    assert refusal(TABLE, "POST", f"/v2/models/sentiment/versions/{version}/infer").code == "version_not_canonical"


# the surface of KServe and Triton


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", "/v2/models/cancer/infer"),
        ("POST", "/v2/models/cancer/versions/01/infer"),
        ("POST", "/v2/models/cancer/nothing"),
        ("POST", "/v2"),
        ("GET", "/v2/"),
        ("POST", f"{GRPC}ModelForget"),
        ("GET", f"{GRPC}ModelInfer"),
    ],
)
def test_what_begins_like_triton_and_is_no_operation_is_refused(method: str, path: str) -> None:
    table = RouteTable(
        [route("all", "/{rest=**}", "GET", "POST", "HEAD"), grpc("service", f"{GRPC}{{method}}")],
    )
    assert refusal(table, method, path).code in {"operation_unknown", "method_not_allowed", "route_unknown"}
    assert table.match("GET", "/v2x").route.name == "all"


@pytest.mark.parametrize(
    ("method", "path", "right", "scope", "model"),
    [
        ("POST", "/v2/models/m/infer", Right.CALL, ModelScope.ONE, "m"),
        ("GET", "/v2/models/m", Right.SEE, ModelScope.ONE, "m"),
        ("POST", "/v2/repository/models/m/load", Right.ADMINISTER, ModelScope.ONE, "m"),
        ("POST", "/v2/repository/index", Right.SEE, ModelScope.ALL, ""),
        ("POST", "/v2/models/m/trace/setting", Right.ADMINISTER, ModelScope.ALL, "m"),
        ("GET", "/v2/health/live", Right.SEE, ModelScope.NONE, ""),
    ],
)
def test_the_right_follows_from_the_call_whatever_route_serves_it(
    method: str, path: str, right: Right, scope: ModelScope, model: str
) -> None:
    table = RouteTable([route("all", "/{rest=**}", "GET", "POST")])
    match = table.match(method, path)
    assert (match.right, match.scope, match.model) == (right, scope, model)


def test_a_model_outside_the_surface_takes_the_right_to_call() -> None:
    match = TABLE.match("PUT", "/m/cancer/run/3")
    assert (match.operation, match.right, match.scope) == (None, Right.CALL, ModelScope.ONE)
    assert TABLE.match("GET", "/files/a").scope is ModelScope.NONE


def test_one_operation_covers_both_protocols() -> None:
    table = RouteTable([operation("infer", Kind.INFER), operation("stream", Kind.STREAM)])
    rest, over_grpc = table.match("POST", "/v2/models/m/infer"), table.match("POST", f"{GRPC}ModelInfer")
    assert (rest.route.name, rest.grpc, rest.model_from_message) == ("infer", False, False)
    assert (over_grpc.route.name, over_grpc.grpc, over_grpc.model_from_message) == ("infer", True, True)
    assert table.match("POST", f"{GRPC}ModelStreamInfer").route.name == "stream"
    assert refusal(table, "POST", "/v2/models/m/generate").code == "route_unknown"


V1 = "/v1/models/"
OF_V1 = RouteTable(
    [
        route("predict", V1 + "{model}:predict", "POST"),
        route("ready", V1 + "{model}"),
        route("other", V1 + "{model}/{rest=**}", "POST"),
        route("literal", V1 + "m:train", "POST"),
        route("version", V1 + "m/versions/1:predict", "POST", hosts=("literal.example",)),
        route("mistaken", "/v1/{model}/{x}", "POST", hosts=("mistaken.example",)),
        route("wide", "/{rest=**}", "GET", "POST", "PUT", hosts=("wide.example",)),
        operation("infer", Kind.INFER),
        operation("metadata", Kind.METADATA),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "host", "expected"),
    [
        ("POST", "m:predict", "h", ("predict", "m", Right.CALL, ModelScope.ONE, Kind.INFER)),
        ("POST", "m:explain", "wide.example", ("wide", "m", Right.CALL, ModelScope.ONE, Kind.INFER)),
        ("GET", "m", "h", ("ready", "m", Right.SEE, ModelScope.ONE, Kind.HEALTH)),
        ("HEAD", "m", "wide.example", ("wide", "m", Right.SEE, ModelScope.ONE, Kind.HEALTH)),
        ("POST", "m/versions/1:predict", "literal.example", ("version", "m", Right.CALL, ModelScope.ONE, None)),
        ("POST", "m/versions/1:predict", "h", ("other", "m", Right.CALL, ModelScope.ONE, None)),
        ("POST", "m:train", "h", ("literal", "m", Right.CALL, ModelScope.ONE, None)),
        ("POST", "m:predict", "mistaken.example", ("mistaken", "m", Right.CALL, ModelScope.ONE, Kind.INFER)),
    ],
)
def test_a_call_of_kserve_v1_takes_the_right_on_its_model(
    method: str, path: str, host: str, expected: tuple[object, ...]
) -> None:
    match = OF_V1.match(method, V1 + path, host)
    assert (match.route.name, match.model, match.right, match.scope, match.operation) == expected


def test_the_list_of_v1_takes_the_right_to_see_all_models() -> None:
    match = OF_V1.match("GET", "/v1/models", "wide.example")
    assert (match.right, match.scope, match.operation) == (Right.SEE, ModelScope.ALL, Kind.METADATA)


METHODS = ("GET", "POST", "PUT")
MISTAKEN = RouteTable(
    [
        route("wide", "/{rest=**}", *METHODS, hosts=("wide.example",)),
        route("mistaken", "/v1/{model}/{x}", *METHODS, hosts=("mistaken.example",)),
        route("slash", "/v1/{model}/", *METHODS, hosts=("mistaken.example",)),
        route("alone", "/v1/{model}", *METHODS, hosts=("mistaken.example",)),
    ]
)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("POST", V1 + call) for call in ("m:drain", "m:x:predict", ":predict", ".:predict", "-:predict")],
        *[
            ("PUT", V1 + "m:predict"),
            ("GET", V1 + "m:predict"),
            ("GET", V1 + "m/"),
            ("GET", V1),
            ("POST", "/v1/models"),
        ],
    ],
)
def test_what_begins_like_v1_and_is_no_operation_needs_a_route_that_names_the_model(method: str, path: str) -> None:
    assert refusal(MISTAKEN, method, path, "wide.example").code == "operation_unknown"
    assert refusal(MISTAKEN, method, path, "mistaken.example").code in {"operation_unknown", "route_unknown"}


@pytest.mark.parametrize("path", ["m:other:predict", ":predict", "m:predict/", "m:x:predict/"])
def test_no_wider_route_serves_what_ends_with_a_verb(path: str) -> None:
    table = RouteTable([route("verb", "/m/{name}:predict"), route("wide", "/m/{rest=**}"), route("one", "/m/{name}")])
    assert refusal(table, "GET", f"/m/{path}").code == "route_unknown"


def test_a_literal_goes_before_a_verb_and_a_verb_before_a_placeholder() -> None:
    table = RouteTable(
        [route("one", "/m/{name}"), route("verb", "/m/{name}:go"), route("literal", "/m/a:go"), route("b", "/m/b")]
    )
    found = {path: table.match("GET", f"/m/{path}").route.name for path in ("a:go", "b:go", "b:stop", "b", "c")}
    assert found == {"a:go": "literal", "b:go": "verb", "b:stop": "one", "b": "b", "c": "one"}


def test_no_route_serves_the_list_of_v1_with_a_slash() -> None:
    """Some servers take it for the list, which takes the right to see all models."""
    assert refusal(RouteTable([route("list", V1)]), "GET", V1).code == "operation_unknown"


def test_an_operation_serves_no_path_of_v1() -> None:
    table = RouteTable([operation("infer", Kind.INFER), operation("health", Kind.HEALTH)])
    for method, path in (("POST", "m:predict"), ("GET", "m"), ("OPTIONS", "m:predict")):
        assert refusal(table, method, V1 + path).code == "route_unknown"


def encoded(name: str, path: str, encoding: Encoding, *methods: str, headers: str = "") -> Route:
    return Route(name, path, frozenset(methods or {"GET"}), encoding=encoding, headers=frozenset(headers.split()))


ENCODED = RouteTable(
    [
        encoded("decoded", "/d/{rest=**}", Encoding.DECODED),
        encoded("opaque", "/o/{rest=**}", Encoding.OPAQUE),
        encoded("strict", "/s/{rest=**}", Encoding.STRICT),
        encoded("literal", "/d/a@b", Encoding.DECODED),
        encoded("verb", "/d/{name}:go", Encoding.DECODED),
        encoded("get", "/mixed/{name}", Encoding.STRICT, "GET"),
        encoded("post", "/mixed/{name}", Encoding.OPAQUE, "POST"),
        encoded("plain", "/headers/{name}", Encoding.DECODED),
        encoded("with", "/headers/{name}", Encoding.STRICT, headers="x-a"),
        encoded("model", "/m/{model}", Encoding.DECODED),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "name", "read"),
    [
        ("GET", "/d/a%20b", "decoded", "/d/a b"),
        ("GET", "/d/%C3%A9/x%40y", "decoded", "/d/é/x@y"),
        ("GET", "/d/plain", "decoded", "/d/plain"),
        ("GET", "/d/a%20b:go", "verb", "/d/a b:go"),
        ("GET", "/o/a%20b", "opaque", ""),
        ("HEAD", "/o/a%3Ago", "opaque", ""),
        ("POST", "/mixed/a%20b", "post", ""),
    ],
)
def test_escapes_are_served_where_a_route_takes_them(method: str, path: str, name: str, read: str) -> None:
    match = ENCODED.match(method, path)
    assert (match.route.name, match.path) == (name, read)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/s/a%20b"),
        ("GET", "/nowhere/a%20b"),
        ("GET", "/d/a%40b"),  # decoded a path of its own
        ("GET", "/d/a%3Ago"),
        ("GET", "/d/a%3Ab:go"),
        ("GET", "/d%20/a"),
        ("POST", "/s/a%20b"),
        ("OPTIONS", "/s/a%20b"),
        ("GET", "/headers/a%20b"),
        ("GET", "/v1/models/m%3Apredict"),
    ],
)
def test_other_paths_with_escapes_are_not_canonical(method: str, path: str) -> None:
    assert refusal(ENCODED, method, path).code == "path_not_canonical"


def test_a_method_that_takes_no_escapes_is_not_offered() -> None:
    denied = refusal(ENCODED, "GET", "/mixed/a%20b")
    assert (denied.code, denied.scope) == ("method_not_allowed", "OPTIONS, POST")


def test_no_model_has_a_name_with_escapes() -> None:
    assert refusal(ENCODED, "GET", "/m/a%20b").code == "model_not_canonical"


def test_a_path_goes_before_an_operation() -> None:
    table = RouteTable([operation("infer", Kind.INFER), route("cancer", "/v2/models/cancer/infer", "POST")])
    assert table.match("POST", "/v2/models/cancer/infer").route.name == "cancer"
    assert table.match("POST", "/v2/models/other/infer").route.name == "infer"


def test_all_methods_of_a_service() -> None:
    table = RouteTable([grpc("all", "/a.B/{method}"), grpc("one", "/a.B/Get")])
    assert [table.match("POST", f"/a.B/{name}").route.name for name in ("Get", "Put")] == ["one", "all"]
    assert table.match("POST", "/a.B/Put").grpc


# hosts

BY_HOST = RouteTable(
    [
        route("any", "/x"),
        route("any-y", "/y"),
        route("exact", "/x", hosts=("models.example",)),
        route("below", "/{rest=**}", hosts=("*.models.example",)),
        route("deeper", "/x", hosts=("*.eu.models.example",)),
        operation("infer-here", Kind.INFER, "models.example"),
        route("infer-anywhere", "/v2/models/{model}/infer", "POST"),
    ]
)


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("models.example", "/x", "exact"),
        ("MODELS.example:8443", "/x", "exact"),
        ("models.example", "/y", "any-y"),
        ("other.example", "/x", "any"),
        ("a.models.example", "/x", "below"),
        ("a.models.example", "/y", "below"),
        ("a.b.models.example", "/x", "below"),
        ("a.eu.models.example", "/x", "deeper"),
        ("a.eu.models.example", "/y", "below"),
        ("notmodels.example", "/x", "any"),
        ("[::1]:80", "/x", "any"),
    ],
)
def test_the_host_goes_first(host: str, path: str, name: str) -> None:
    assert BY_HOST.match("GET", path, host).route.name == name


def test_an_operation_of_a_host_goes_before_a_path_of_any() -> None:
    assert BY_HOST.match("POST", "/v2/models/m/infer", "models.example").route.name == "infer-here"
    assert BY_HOST.match("POST", "/v2/models/m/infer", "x.example").route.name == "infer-anywhere"


@pytest.mark.parametrize(
    "host",
    ["", "models.example.", "models..example", "models.example:", "mod els", "a@models.example", "[::1", "a:1:2"],
)
def test_a_host_that_is_not_canonical_is_refused_where_hosts_count(host: str) -> None:
    assert refusal(BY_HOST, "GET", "/x", host).code == "host_not_canonical"
    assert TABLE.match("GET", "/", host).route.name == "root"


# headers

BY_HEADER = RouteTable(
    [
        route("none", "/x"),
        route("a", "/x", headers="x-a"),
        route("b", "/x", headers="x-b"),
        route("both", "/x", headers="x-a x-b"),
        route("only", "/only", headers="x-a x-b"),
    ]
)


@pytest.mark.parametrize(
    ("headers", "name"),
    [({}, "none"), ({"x-a": ""}, "a"), ({"x-b": "1"}, "b"), ({"x-a": "", "x-b": "", "x-c": ""}, "both")],
)
def test_more_headers_go_before_fewer(headers: Mapping[str, str], name: str) -> None:
    assert BY_HEADER.match("GET", "/x", "", headers).route.name == name


def test_without_its_header_a_path_is_not_served() -> None:
    denied = refusal(BY_HEADER, "GET", "/only", "", {"x-a": "1"})
    assert (denied.reason, denied.code) == (Reason.NO_ROUTE, "header_missing")
    assert "x-a and x-b" in denied.detail


# ambiguity

AMBIGUOUS = {
    "one template": [route("a", "/v2/models/{model}"), route("b", "/v2/models/{name}")],
    "one of several methods": [route("a", "/x", "GET", "PUT"), route("b", "/x", "PUT", "POST")],
    "a rest of another name": [route("a", "/x/{rest=**}"), route("b", "/x/{all=**}")],
    "one of several hosts": [route("a", "/x", hosts=("p", "q")), route("b", "/x", hosts=("q", "r"))],
    "headers that can come together": [route("a", "/x", headers="x-a"), route("b", "/x", headers="x-b")],
    "equal headers": [route("a", "/x", headers="x-a"), route("b", "/x", headers="x-a")],
    "one operation": [operation("a", Kind.INFER), operation("b", Kind.INFER)],
    "a gRPC service": [grpc("a", "/a.B/{method}"), route("b", "/a.B/{name}", "POST")],
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_routes_for_one_request_are_named(case: str) -> None:
    with pytest.raises(AmbiguousRoutes, match="routes 'a' and 'b' both match") as ambiguous:
        RouteTable(AMBIGUOUS[case])
    assert [(one.name, two.name) for one, two, _ in ambiguous.value.pairs] == [("a", "b")]


def test_many_that_differ_by_headers_only_are_refused() -> None:
    with pytest.raises(AmbiguousRoutes) as ambiguous:
        RouteTable([route(f"r{number}", "/x", headers=f"x-{number}") for number in range(1000)])
    assert len(ambiguous.value.pairs) == 1


def test_the_same_path_may_have_a_route_per_method_and_host() -> None:
    table = RouteTable(
        [route("read", "/x"), route("write", "/x", "POST"), route("there", "/x", hosts=("*.example", "a.example"))]
    )
    assert table.match("POST", "/x", "b").route.name == "write"
    assert table.match("GET", "/x", "a.example").route.name == "there"


# cost


def test_matches_are_kept_and_the_keeping_is_bounded() -> None:
    table = RouteTable([route("metadata", "/m/{model}")])
    first = table.match("GET", "/m/a")
    assert table.match("GET", "/m/a", "anywhere") is first
    for number in range(20_000):
        table.match("GET", f"/m/{number}")
        table.prove("GET", f"/m/{number}", "")
    assert table._cache.bytes <= 4 << 20


def test_decoded_paths_are_kept_by_what_they_take() -> None:
    table = RouteTable([replace(route("page", "/m/{page}"), encoding=Encoding.DECODED)])
    tracemalloc.start()
    try:
        for number in range(5_000):
            path = f"/m/{number}{'a' * 600}%F0%9F%98%80"  # in memory, four bytes per character
            assert table.match("GET", path).path
            table.prove("GET", path, "")
        assert tracemalloc.get_traced_memory()[0] <= 5 << 20
    finally:
        tracemalloc.stop()


def test_paths_that_are_only_tried_do_not_drive_out_those_in_use() -> None:
    table = RouteTable([route("metadata", "/m/{model}")])
    used = table.match("GET", "/m/a")
    table.prove("GET", "/m/a", "anywhere")
    for number in range(20_000):
        table.match("GET", f"/m/{number}")
    assert table.match("GET", "/m/a") is used
    assert len(table._cache) == 1
    assert table._unproven.bytes <= 256 << 10


@pytest.mark.parametrize("hosts", [(), ("*.example",)], ids=["any host", "by host"])
def test_a_host_that_is_no_host_is_refused_by_its_length(hosts: tuple[str, ...]) -> None:
    table = RouteTable([route("x", "/x", hosts=hosts)])
    assert table.match("GET", "/x", "a." * 100 + "example:65535")
    refused = refusal(table, "GET", "/x", "a." * 200 + "example")
    assert refused.code == "host_not_canonical"
    assert "a.a." not in refused.detail


def test_the_longest_path_is_walked_at_once() -> None:
    table = RouteTable([route("deep", "/" + "/".join(["{a}"] * 31) + "/end"), route("all", "/a/{rest=**}")])
    assert table.match("GET", "/a" * 512).route.name == "all"
