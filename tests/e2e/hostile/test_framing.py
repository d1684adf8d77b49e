"""Requests that come in pieces, too slowly, or framed in a way that two readers could read differently."""

from __future__ import annotations

import socket
import time

import pytest

from tests.e2e.hostile.world import World


def test_who_is_let_in_cannot_take_his_time_to_say_what_he_wants(world: World) -> None:
    """The verdict would be old by then, and the token, too."""
    head = f"POST /files/a HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {world.token()}\r\ncontent-length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.hasty_port), timeout=10) as caller:
        caller.sendall(head.encode())
        answer = drip(caller)
    assert answer.split(b" ", 2)[1] == b"408"
    assert world.upstream.reached == []


def drip(caller: socket.socket) -> bytes:
    """A byte now and then, as long as nobody answers; the answer."""
    caller.settimeout(0.2)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            return caller.recv(65_536)
        except TimeoutError:
            caller.sendall(b"x")
    raise AssertionError("no answer in ten seconds")


@pytest.mark.parametrize(
    "lines",
    [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: 2, 3",
        "content-length: 2\r\ntransfer-encoding: chunked",
        "content-length: +2",
        "content-length: 0x2",
        "content-length: -1",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding : chunked",
        "transfer-encoding:\tchunked, chunked",
        "content-length: 2\r\n folded: x",
        "x\x00y: 1\r\ncontent-length: 2",
        "x y: 1\r\ncontent-length: 2",
        "x_user_id: root\r\ncontent-length: 2",
        ": nameless\r\ncontent-length: 2",
        "no colon at all\r\ncontent-length: 2",
        "content-length: 2\r\nconnection: x-user-id, x-decision-id, authorization, content-length",
        "content-length: 2\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__",
        "content-length: 2\r\nupgrade: websocket\r\nconnection: upgrade",
        "expect: 200-nothing\r\ncontent-length: 2",
    ],
)
def test_what_can_be_read_in_two_ways_never_becomes_a_second_request(world: World, lines: str) -> None:
    """One request, with our words on it, or none."""
    smuggled = f"{{}}GET /files/hr HTTP/1.1\r\nhost: ops.example\r\nauthorization: Bearer {world.token()}\r\n\r\n"
    head = f"POST /files/a HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {world.token()}\r\n{lines}\r\n\r\n"
    status = int(world.say(f"{head}{smuggled}".encode("latin-1")).split(b" ", 2)[1])
    assert status in (200, 501) or 400 <= status < 500
    assert [request.path for request in world.upstream.reached] in ([], ["/files/a"])
    for request in world.upstream.reached:
        assert (request.all("host"), len(request.all("x-user-id")), len(request.all("x-decision-id"))) == (["h"], 1, 1)
        assert request.all("x-user-id") != ["root"]
        assert request.all("authorization") == []


@pytest.mark.parametrize("start", ["GET /files/a", "GET /files/a HTTP/0.9", "GET /files/a HTTP/1.2"])
def test_another_version_of_http_is_not_spoken(world: World, start: str) -> None:
    answer = world.say(f"{start}\r\nhost: h\r\nauthorization: Bearer {world.token()}\r\n\r\n".encode())
    assert not answer.startswith(b"HTTP/1.1 200")
    assert world.upstream.reached == []
