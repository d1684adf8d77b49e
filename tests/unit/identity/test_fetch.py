"""Fetching over a real connection from a server that misbehaves."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from ext_authz.identity.fetch import MAX_DOCUMENT, HttpFetch
from ext_authz.identity.jwks import KeySet
from tests.fakes import FakeClock
from tests.tokens import RSA, jwks
from tests.unit.identity.door import an_issuer

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, requests: list[bytes] | None = None) -> AsyncIterator[str]:
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(request)
            await answer(writer)
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # the client has seen enough, or the test is over

    server = await asyncio.start_server(
        lambda reader, writer: handling.add(asyncio.create_task(handle(reader, writer))), "127.0.0.1", 0
    )
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/certs"
    for task in handling:
        task.cancel()
    await asyncio.gather(*handling, return_exceptions=True)


def answering(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


async def endless(writer: asyncio.StreamWriter) -> None:
    """Never says how long the body is, and never ends it."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 65_536)
        await writer.drain()


async def drop_by_drop(writer: asyncio.StreamWriter) -> None:
    """Always one byte before the next pause is too long."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def fetched(url: str, timeout: float = 5.0) -> bytes:  # noqa: ASYNC109 - the setting under test
    fetch = HttpFetch(timeout)
    try:
        return await fetch(url)
    finally:
        await fetch.aclose()


async def test_a_key_set_arrives() -> None:
    requests: list[bytes] = []
    async with serving(answering(jwks(RSA)), requests) as url:
        assert await fetched(url) == jwks(RSA)
    assert b"accept-encoding: identity" in requests[0].lower()


async def test_the_largest_document_passes() -> None:
    async with serving(answering(b" " * MAX_DOCUMENT)) as url:
        assert len(await fetched(url)) == MAX_DOCUMENT


@pytest.mark.parametrize("answer", [answering(b" " * (MAX_DOCUMENT + 1)), endless])
async def test_too_long(answer: Answer) -> None:
    async with serving(answer) as url:
        with pytest.raises(ValueError, match="longer than"):
            await fetched(url)


async def test_a_redirect_is_not_followed() -> None:
    async with (
        serving(answering(jwks(RSA))) as elsewhere,
        serving(answering(b"", f"location: {elsewhere}", status="302 Found")) as url,
    ):
        with pytest.raises(ValueError, match="status 302"):
            await fetched(url)


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "500 Oops"])
async def test_other_status(status: str) -> None:
    async with serving(answering(b"", status=status)) as url:
        with pytest.raises(ValueError, match="status"):
            await fetched(url)


async def test_compressed_although_not_asked_for() -> None:
    """It is not unpacked, so it is no JSON, so the last good set stays."""
    packed = gzip.compress(b" " * 10_000_000)
    async with serving(answering(packed, "content-encoding: gzip")) as url:
        assert await fetched(url) == packed


async def test_the_whole_answer_must_come_in_time() -> None:
    async with serving(drop_by_drop) as url:
        with pytest.raises(TimeoutError):
            await fetched(url, timeout=0.1)


async def test_nobody_listens() -> None:
    async with serving(endless) as url:
        pass
    with pytest.raises(httpx.ConnectError):
        await fetched(url)


async def test_a_key_set_over_http() -> None:
    fetch = HttpFetch(5.0)
    async with serving(answering(jwks(RSA))) as url:
        keys = KeySet(an_issuer(jwks_url=url), fetch=fetch, clock=FakeClock())
        assert (await keys.key(RSA.name)).key_id == RSA.key_id
    await fetch.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await fetch(url)
