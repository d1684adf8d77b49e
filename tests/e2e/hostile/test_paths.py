"""No spelling of path, host or method leads to what its rule keeps closed, and what is checked is what arrives."""

from __future__ import annotations

import re

import pytest

from tests.e2e.hostile.world import World
from tests.e2e.server.raw import RawCall

CANONICAL = re.compile(r"(?:/[A-Za-z0-9_.~!$&'()*+,=:@-]+)+/?(?:\?.*)?")

HR = (
    *("/files/hr", "/files/hr/", "/files/hr/a", "/files/hr/a/", "/files/hr?", "/files/hr/?x=/files/a"),
    *("/files/hr/.", "/files/hr/./", "/files/./hr/", "/files/hr/a/..", "/files/x/../hr", "/files/x/../hr/"),
    *("/docs/../files/hr/", "/docs/%2e%2e/files/hr/", "/docs/.%2E/files/hr", "/files/hr/%2e", "/files/hr/%2E%2e/hr/"),
    *("/files/hr//", "/files//hr", "//files/hr/", "/files/hr/..;/", "/files/hr;", "/files/hr;a=b", "/files/hr/;a=b/"),
    *(
        "/files/..;/files/hr/",
        "/files/%68r",
        "/files/h%72/",
        "/files/hr%2f",
        "/files/hr%2F",
        "/files%2fhr",
        "/files/hr%252f",
    ),
    *("/files/hr%5c", "/files/hr\\", "/files\\hr", "/files/hr/%5c", "/files/hr%00", "/files/hr%20", "/files/hr/%20"),
    *("/files/hr#", "/files/hr/#a", "/files/hr%23", "/files/hr%3f", "/files/hr%0a", "/files/hr%09/", "/files/hr\t"),
    *("http://h/files/hr/", "http://ops.example/files/hr/", "HTTP://h/files/hr", "http://h/docs/../files/hr/"),
    *("http://h//files/hr", "h/files/hr", "files/hr/", "*/files/hr", "/files/hr\xc0\xaf", "/files/hr\xe2\x81\x84"),
)
"""What means /files/hr or something below it, or might mean it to somebody."""


def get(world: World, target: str, *, method: str = "GET", host: str = "h", more: str = "") -> int:
    """The status."""
    head = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {world.token()}\r\n{more}\r\n"
    return int(world.say(head.encode("latin-1")).split(b" ", 2)[1])


def reached(world: World) -> list[str]:
    return [request.path for request in world.upstream.reached]


@pytest.mark.parametrize("target", HR)
def test_without_the_role_every_spelling_is_refused(world: World, target: str) -> None:
    assert 400 <= get(world, target) < 500
    assert reached(world) == []


@pytest.mark.parametrize(
    "target", ["/docs/../files/hr/", "/docs/%2e%2e/files/hr", "/docs/..%2ffiles/hr", "/docs/..;/x"]
)
def test_a_public_path_leads_nowhere_else(world: World, target: str) -> None:
    answer = world.say(f"GET {target} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
    assert 400 <= int(answer.split(b" ", 2)[1]) < 500
    assert reached(world) == []


@pytest.mark.parametrize(
    "target",
    ["/files/a", "/files/a/", "/files/hr.txt", "/files/x/hr/", "/files/a/../b", "/files/a/%62", "/files/a?x#y"],
)
def test_what_is_open_arrives_in_its_one_spelling(world: World, target: str) -> None:
    if get(world, target) == 200:
        assert all(CANONICAL.fullmatch(path) for path in reached(world))
    else:
        assert reached(world) == []


def test_the_straight_paths_are_open(world: World) -> None:
    targets = ["/files/a", "/files/a/", "/files/hr.txt", "/files/x/hr/"]
    assert [get(world, target) for target in targets] == [200] * 4
    assert reached(world) == targets


@pytest.mark.parametrize(
    "host",
    [
        *("ops.example", "OPS.example", "ops.example:80", "a.ops.example", "A.B.oPs.ExAmPlE:443"),
        *("ops.example.", "ops.example.:80", "ops.example:", ".ops.example", "ops.example:080:1", "ops%2eexample"),
        *("user@ops.example", "ops.example/files", "ops.example,h", "h,ops.example", "ops.example h", "ops..example"),
    ],
)
def test_a_host_has_one_spelling_too(world: World, host: str) -> None:
    assert 400 <= get(world, "/files/a", host=host) < 500
    assert 400 <= get(world, f"http://{host}/files/a") < 500
    assert reached(world) == []


def test_of_two_hosts_the_one_that_is_checked_arrives(world: World) -> None:
    """Or none does."""
    get(world, "/files/a", more="host: ops.example\r\n")
    get(world, "/files/a", host="ops.example", more="host: h\r\n")
    get(world, "http://h/files/a", host="ops.example")
    for authority, host in (("h", "ops.example"), ("ops.example", "h")):
        bearer = ("authorization", f"Bearer {world.token()}")
        call = RawCall(world.port, method="GET", path="/files/a", authority=authority, more=[("host", host), bearer])
        call.send(b"", end=True).answer()
    assert {value for request in world.upstream.reached for value in request.all(":authority")} <= {"h"}


@pytest.mark.parametrize(
    "method", ["get", "Get", "head", "PUT", "DELETE", "options", "TRACE", "PROPFIND", "GETX", "PRI"]
)
def test_a_method_that_the_rule_does_not_name_is_refused(world: World, method: str) -> None:
    for target in ("/files/a", "/files/hr", "/docs/a"):
        assert 400 <= get(world, target, method=method) < 500
    assert reached(world) == []


def test_head_takes_what_get_takes(world: World) -> None:
    assert [get(world, target, method="HEAD") for target in ("/files/a", "/docs/a")] == [200, 200]
    reached_before = reached(world)
    for target in ("/files/hr", "/files/hr/a", "/v2/models/m/infer"):
        assert get(world, target, method="HEAD") == get(world, target) != 200
    assert reached(world) == reached_before


def test_options_opens_no_path(world: World) -> None:
    for target, status in (("/files/a", 204), ("/files/hr", 204), ("/v2/models/m/infer", 204), ("/nowhere", 404)):
        assert get(world, target, method="OPTIONS") == status
    assert reached(world) == []


def test_connect_is_refused(world: World) -> None:
    for target in ("h:443", "/files/a", "ops.example:80"):
        assert 400 <= get(world, target, method="CONNECT") < 500
    assert reached(world) == []
