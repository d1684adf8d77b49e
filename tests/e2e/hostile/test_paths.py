"""No spelling of path, host or method leads to what its rule keeps closed, and what is judged is what arrives."""

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


def get(door: World, target: str, *, method: str = "GET", host: str = "h", more: str = "") -> int:
    """The status."""
    head = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {door.token()}\r\n{more}\r\n"
    return int(door.say(head.encode("latin-1")).split(b" ", 2)[1])


def reached(door: World) -> list[str]:
    return [request.path for request in door.upstream.reached]


@pytest.mark.parametrize("target", HR)
def test_nobody_without_the_role_comes_near(door: World, target: str) -> None:
    assert 400 <= get(door, target) < 500
    assert reached(door) == []


@pytest.mark.parametrize(
    "target", ["/docs/../files/hr/", "/docs/%2e%2e/files/hr", "/docs/..%2ffiles/hr", "/docs/..;/x"]
)
def test_a_public_path_leads_nowhere_else(door: World, target: str) -> None:
    answer = door.say(f"GET {target} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
    assert 400 <= int(answer.split(b" ", 2)[1]) < 500
    assert reached(door) == []


@pytest.mark.parametrize(
    "target",
    ["/files/a", "/files/a/", "/files/hr.txt", "/files/x/hr/", "/files/a/../b", "/files/a/%62", "/files/a?x#y"],
)
def test_what_is_open_arrives_in_its_one_spelling(door: World, target: str) -> None:
    if get(door, target) == 200:
        assert all(CANONICAL.fullmatch(path) for path in reached(door))
    else:
        assert reached(door) == []


def test_the_straight_paths_are_open(door: World) -> None:
    targets = ["/files/a", "/files/a/", "/files/hr.txt", "/files/x/hr/"]
    assert [get(door, target) for target in targets] == [200] * 4
    assert reached(door) == targets


@pytest.mark.parametrize(
    "host",
    [
        *("ops.example", "OPS.example", "ops.example:80", "a.ops.example", "A.B.oPs.ExAmPlE:443"),
        *("ops.example.", "ops.example.:80", "ops.example:", ".ops.example", "ops.example:080:1", "ops%2eexample"),
        *("user@ops.example", "ops.example/files", "ops.example,h", "h,ops.example", "ops.example h", "ops..example"),
    ],
)
def test_a_host_has_one_spelling_too(door: World, host: str) -> None:
    assert 400 <= get(door, "/files/a", host=host) < 500
    assert 400 <= get(door, f"http://{host}/files/a") < 500
    assert reached(door) == []


def test_of_two_hosts_the_one_that_is_judged_arrives(door: World) -> None:
    """Or none does."""
    get(door, "/files/a", more="host: ops.example\r\n")
    get(door, "/files/a", host="ops.example", more="host: h\r\n")
    get(door, "http://h/files/a", host="ops.example")
    for authority, host in (("h", "ops.example"), ("ops.example", "h")):
        bearer = ("authorization", f"Bearer {door.token()}")
        call = RawCall(door.port, method="GET", path="/files/a", authority=authority, more=[("host", host), bearer])
        call.send(b"", end=True).answer()
    assert {value for request in door.upstream.reached for value in request.all(":authority")} <= {"h"}


@pytest.mark.parametrize(
    "method", ["get", "Get", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "GETX", "PRI"]
)
def test_a_method_that_the_rule_does_not_name_is_refused(door: World, method: str) -> None:
    for target in ("/files/a", "/files/hr", "/docs/a"):
        assert 400 <= get(door, target, method=method) < 500
    assert reached(door) == []


def test_connect_is_refused(door: World) -> None:
    for target in ("h:443", "/files/a", "ops.example:80"):
        assert 400 <= get(door, target, method="CONNECT") < 500
    assert reached(door) == []
