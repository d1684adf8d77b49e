"""The ASGI application alone, with the events of any server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import pytest

from ext_authz.server import asgi
from ext_authz.server.asgi import Event, Rpc, allowance

MAX = 100


async def echo(message: bytes) -> bytes:
    return message


async def endless(message: bytes) -> bytes:
    await asyncio.Event().wait()
    return message


async def broken(message: bytes) -> bytes:
    raise RuntimeError("a secret detail")


async def cancelled_inside(message: bytes) -> bytes:
    raise asyncio.CancelledError


METHODS: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
    "/echo": echo,
    "/endless": endless,
    "/broken": broken,
    "/cancelled": cancelled_inside,
}


async def call(path: str, pieces: Iterable[bytes | None], **headers: str) -> list[Event]:
    """What is sent. A piece that is None is a disconnect; after the last piece the body is whole."""
    pending = list(pieces)
    sent: list[Event] = []

    async def receive() -> Event:
        piece = pending.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        event = {"type": "http.request", "body": piece, "more_body": bool(pending)}
        return {name: value for name, value in event.items() if value}

    async def send(event: Event) -> None:
        sent.append(event)

    named = {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in headers.items()}
    encoded = [(name.encode(), value.encode()) for name, value in named.items()]
    await Rpc(METHODS, MAX)({"type": "http", "method": "POST", "path": path, "headers": encoded}, receive, send)
    return sent


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def status(sent: list[Event]) -> str:
    """The grpc-status of a trailers-only answer."""
    start, end = sent
    assert not start.get("trailers")
    assert end == {"type": "http.response.body"}
    return str(dict(start["headers"])[b"grpc-status"].decode())


async def test_an_answer_is_headers_one_frame_and_trailers() -> None:
    start, body, trailers = await call("/echo", [framed(b"hello")])
    assert (start["status"], start["trailers"]) == (200, True)
    assert body["body"] == framed(b"hello")
    assert trailers["headers"] == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("cut", range(1, 10))
async def test_a_message_may_be_cut_anywhere(cut: int) -> None:
    data = framed(b"hello")
    _, body, _ = await call("/echo", [data[:cut], data[cut:]])
    assert body["body"] == data


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([framed(b"x" * MAX)], None),
        ([framed(b"x" * (MAX + 1))], "8"),
        ([b"\0" + (MAX + 1).to_bytes(4, "big"), b"never read"], "8"),
        ([framed(b"x" * MAX), b"more", b"never read"], "12"),
        ([framed(b"hello")[:-1]], "13"),
        ([framed(b"hello")[:-3], b"l"], "13"),
        ([framed(b"one"), framed(b"two")], "12"),
        ([b"\1" + framed(b"hello")[1:]], "12"),
        ([b"", b""], "12"),
    ],
)
async def test_frames(pieces: list[bytes], expected: str | None) -> None:
    sent = await call("/echo", pieces)
    assert (len(sent) == 3) if expected is None else (status(sent) == expected)


@pytest.mark.parametrize("pieces", [[None], [framed(b"hello")[:7], None]])
async def test_a_caller_that_left_gets_no_answer(pieces: list[bytes | None]) -> None:
    assert await call("/echo", pieces) == []


async def test_a_bug_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        sent = await call("/broken", [framed(b"hello")])
    assert status(sent) == "13"
    assert "secret" not in str(sent)
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize("given", ["50m", "50000u", "0S"])
async def test_the_deadline_bounds_the_method(given: str) -> None:
    async with asyncio.timeout(5):
        assert status(await call("/endless", [framed(b"hello")], grpc_timeout=given)) == "4"


async def test_who_names_no_deadline_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "DEFAULT", b"50m")
    async with asyncio.timeout(5):
        assert status(await call("/endless", [framed(b"hello")])) == "4"


@pytest.mark.parametrize(("given", "seconds"), [(b"250m", 0.225), (b"10S", 9.95), (b"100u", 0.00009)])
def test_the_answer_comes_before_the_caller_gives_up(given: bytes, seconds: float) -> None:
    assert allowance(given) == pytest.approx(seconds)


async def test_a_deadline_far_away_changes_nothing() -> None:
    assert len(await call("/echo", [framed(b"hello")], grpc_timeout="99999999H")) == 3


@pytest.mark.parametrize("given", ["", "5", "m", "5x", "-5m", "+5m", "5.0S", "123456789m", "\uff15m"])
async def test_a_malformed_deadline_is_refused(given: str) -> None:
    assert status(await call("/echo", [framed(b"hello")], grpc_timeout=given)) == "13"


@pytest.mark.parametrize("headers", [{}, {"grpc_timeout": "10S"}])
async def test_a_cancellation_that_is_not_the_deadlines_is_passed_on(headers: dict[str, str]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call("/cancelled", [framed(b"hello")], **headers)


async def test_the_task_is_not_left_cancelled() -> None:
    """What follows a missed deadline in the same task must be able to wait."""
    async with asyncio.timeout(5):
        await call("/endless", [framed(b"hello")], grpc_timeout="1m")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
