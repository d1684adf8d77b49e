"""A path with escapes has one reading: the upstream gets, byte for byte, what was checked, or nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.e2e.hostile.test_paths import get, reached
from tests.e2e.hostile.world import World
from tests.e2e.server.raw import RawCall

SERVED = {
    "/decoded/a%20b": "/decoded/a%20b",
    "/decoded/%C3%A9/%F0%9F%98%80": "/decoded/%C3%A9/%F0%9F%98%80",
    "/decoded/a%2Ab/": "/decoded/a%2Ab/",
    "/decoded/when/it%20is%20%C3%A9": "/decoded/when/it%20is%20%C3%A9",
    "/opaque/a%20b": "/opaque/a%20b",
    "/opaque/a%3Awipe": "/opaque/a%3Awipe",
    "/decoded/a%20b?x=%2f%00": "/decoded/a%20b?x=%2f%00",
    # Envoy makes these canonical before the check.
    "/decoded/%61%20b": "/decoded/a%20b",
    "/decoded/x/%2E%2E/a%20b": "/decoded/a%20b",
    '/decoded/"|^`<>{}': "/decoded/%22%7C%5E%60%3C%3E%7B%7D",
    "http://h/decoded/a%20b": "/decoded/a%20b",
}
"""What arrives of each target."""

REFUSED = (
    # Where no route takes escapes.
    *("/files/a%20b", "/docs/a%20b", "/invocations%20", "/%20", "/nowhere/a%20b", "/v2/models/m%20/infer", "/%2E%20"),
    # Of octets that none may have.
    *("/decoded/a%00", "/decoded/a%0A", "/decoded/a%0d%0aX:%20y", "/decoded/a%1F", "/decoded/a%7F", "/decoded/a%C2%85"),
    *("/decoded/a%2Fb", "/decoded/a%2fb", "/decoded/a%5Cb", "/decoded/a%5cb", "/decoded/a%3Bb", "/decoded/a;b"),
    # Decoded twice.
    *("/decoded/a%25b", "/decoded/a%252Fb", "/decoded/%252e%252e/x", "/decoded/%2525", "/opaque/a%2520b"),
    # Dot segments, and slashes.
    *(
        "/decoded/%2e%2e/%2e%2e/files/hr",
        "/decoded/..%2Ffiles/hr",
        "/decoded//a%20b",
        "/decoded/a%20b//",
        "//decoded/%20",
    ),
    *("/decoded/..%3B/x", "/decoded/.%20/../../files/hr", "/decoded/%2e%2e%5Cfiles"),
    # No UTF-8, an overlong form, a surrogate, half a character.
    *("/decoded/%C0%AF", "/decoded/%E0%80%AF", "/decoded/%ED%A0%80", "/decoded/%C3", "/decoded/%A9%C3", "/opaque/%FF"),
    *("/decoded/\xc3\xa9", "/opaque/\xff"),
    # Lower-case hex, half an escape, and other notations.
    *("/decoded/a%c3%a9", "/decoded/a%2", "/decoded/a%", "/decoded/a%zz", "/decoded/a%u0020", "/decoded/a[b]"),
    # Whose decoded reading another route serves.
    *("/decoded/hr%40home/x", "/decoded/a%3Awipe", "/decoded/a%3Ab:wipe", "/decoded%20/x", "/decoded/a:b:wipe"),
    # Of models.
    *(
        "/v1/models/closed%3Apredict",
        "/v1/models/closed%20:predict",
    ),
    *("/v1/models/closed:predict:predict", "/v1/models/closed:predict/", "/v1/models/closed:Predict"),
    *("/v1/models//closed:predict", "/v1//models/closed:predict", "/v1/./models/closed:predict", "/v1/models/:predict"),
    *("/v1/models/closed:drain", "/v1/models/closed/", "/v1/models/", "/v1/models/%2e:predict", "/v1/models/.:predict"),
    *("/V1/models/closed%20:predict", "/v1/models/closed:predict%20", "/v1/models/closed%00:predict"),
    f"/decoded/{'%20' * 400}",
)


@pytest.mark.parametrize(("target", "arrives"), SERVED.items())
def test_what_is_served_arrives_as_it_was_checked(world: World, target: str, arrives: str) -> None:
    assert get(world, target) == 200
    assert reached(world) == [arrives]


@pytest.mark.parametrize("target", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(world: World, target: str) -> None:
    for method in ("GET", "POST"):
        assert 400 <= get(world, target, method=method, more="content-length: 0\r\n") < 500
    assert reached(world) == []


def test_nor_does_more_arrive_over_http2(world: World) -> None:
    bearer = f"Bearer {world.token()}"
    for target in (*SERVED, *REFUSED):
        call = RawCall(
            world.port, method="GET", path=target, authority="h", content_type="text/plain", authorization=bearer
        )
        with suppress(ConnectionError):  # what no HTTP/2 may have
            call.send(b"", end=True).answer()
    # Of HTTP/2 Envoy takes UTF-8, and escapes it before the check.
    assert set(reached(world)) <= {*SERVED.values(), "/decoded/%C3%83%C2%A9", "/opaque/%C3%BF"}
    assert "/decoded/a%20b" in reached(world)


@pytest.mark.parametrize("target", ["/decoded/hr@home/x", "/decoded/a:wipe", "/decoded/a%20b:wipe", "/opaque/hr"])
def test_a_closer_route_keeps_its_role(world: World, target: str) -> None:
    assert get(world, target) == 403
    assert reached(world) == []


def test_a_condition_reads_the_decoded_path(world: World) -> None:
    assert get(world, "/decoded/when/it%20is%20e") == 403
    assert reached(world) == []


@pytest.mark.parametrize("path", ["/v1/models/closed:predict", "/v1/models/closed:explain", "/v1/models/closed"])
def test_a_model_of_v1_takes_its_right_whatever_route_serves_it(world: World, path: str) -> None:
    # An inference without a body is refused as such.
    method, more = ("POST", "content-length: 2\r\n\r\n{}") if ":" in path else ("GET", "")
    assert get(world, path, method=method, more=more) == 403
    assert get(world, path.replace("closed", "open"), method=method, more=more) == 200
    assert reached(world) == [path.replace("closed", "open")]


def test_who_may_not_see_all_models_gets_no_list_of_v1(world: World) -> None:
    assert get(world, "/v1/models") == 403
    assert reached(world) == []


def test_another_server_gets_csv(world: World) -> None:
    for sent, arrives in (("text/csv", "text/csv"), ("application/x-www-form-urlencoded", "application/json")):
        more = f"content-type: {sent}\r\ncontent-length: 0\r\n"
        assert get(world, "/invocations", method="POST", more=more) == 200
        assert world.upstream.reached[-1].all("content-type") == [arrives]
