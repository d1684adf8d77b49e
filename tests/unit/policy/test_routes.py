"""Exactly one route applies; nothing that the policy does not name gets through."""

from __future__ import annotations

import pytest

from ext_authz.decision import Reason
from ext_authz.errors import ConfigError, Denied
from ext_authz.policy.model import Route
from ext_authz.policy.routes import RouteTable


def route(name: str, path: str, *methods: str) -> Route:
    return Route(name=name, path=path, methods=frozenset(methods or {"GET"}))


TABLE = RouteTable(
    [
        route("root", "/"),
        route("stats", "/v2/models/stats"),
        route("metadata", "/v2/models/{model}", "GET", "HEAD"),
        route("infer", "/v2/models/{model}/infer", "POST"),
        route("infer-version", "/v2/models/{model}/versions/{version}/infer", "POST"),
        route("anything", "/v2/{kind}/stats/now"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "name", "model", "version"),
    [
        ("GET", "/", "root", "", ""),
        ("GET", "/v2/models/stats", "stats", "", ""),
        ("GET", "/v2/models/cancer", "metadata", "cancer", ""),
        ("HEAD", "/v2/models/cancer", "metadata", "cancer", ""),
        ("POST", "/v2/models/stats/infer", "infer", "stats", ""),
        ("POST", "/v2/models/cancer/versions/12/infer", "infer-version", "cancer", "12"),
        ("GET", "/v2/models/stats/now", "anything", "", ""),
    ],
)
def test_one_route_applies(method: str, path: str, name: str, model: str, version: str) -> None:
    match = TABLE.match(method, path)
    assert (match.route.name, match.model, match.version) == (name, model, version)


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/models",
        "/v2/models/",
        "/v2/models/cancer/",
        "/V2/models/cancer",
        "/v2/models/a/b",
        "/v2/models/a/infer/x",
    ],
)
def test_the_rest_is_refused(path: str) -> None:
    with pytest.raises(Denied) as denied:
        TABLE.match("GET", path)
    assert denied.value.reason is Reason.NO_ROUTE


def test_a_known_path_names_its_methods() -> None:
    with pytest.raises(Denied) as denied:
        TABLE.match("DELETE", "/v2/models/cancer")
    assert (denied.value.reason, denied.value.scope) == (Reason.METHOD_NOT_ALLOWED, "GET, HEAD")


@pytest.mark.parametrize("version", ["01", "0", "+1", "1abc", "1.9", "-1", "1" * 19])
def test_versions_that_triton_would_repair_are_refused(version: str) -> None:
    with pytest.raises(Denied) as denied:
        TABLE.match("POST", f"/v2/models/cancer/versions/{version}/infer")
    assert denied.value.code == "version_not_canonical"


def test_two_routes_for_one_path_are_named() -> None:
    with pytest.raises(ConfigError, match="'metadata' and 'other' both claim GET"):
        RouteTable([route("metadata", "/v2/models/{model}"), route("other", "/v2/models/{name}")])


def test_the_same_path_may_have_a_route_per_method() -> None:
    table = RouteTable([route("read", "/x", "GET"), route("write", "/x", "POST")])
    assert table.match("POST", "/x").route.name == "write"


def test_matches_are_kept_and_the_keeping_is_bounded() -> None:
    table = RouteTable([route("metadata", "/m/{model}")])
    first = table.match("GET", "/m/a")
    assert table.match("GET", "/m/a") is first
    for number in range(5000):
        table.match("GET", f"/m/{number}")
    assert len(table._cache) <= 4096
