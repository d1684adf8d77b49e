"""No request to the console has a large body, whatever it announces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ext_authz.api.rest import PREFIX as REST
from ext_authz.web import bodies
from ext_authz.web.bodies import MAX_BODY, BoundedBodies


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = BoundedBodies(Starlette(routes=[Route("/", _length, methods=["POST"])]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
        yield client


async def _chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1024):
        yield b"x" * 1024


async def test_what_fits_arrives(client: httpx.AsyncClient) -> None:
    assert (await client.post("/", content=b"x" * MAX_BODY)).text == str(MAX_BODY)
    assert (await client.post("/", content=_chunks(MAX_BODY))).text == str(MAX_BODY)


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "1" * 40, "-1", "x"])
async def test_what_announces_more_is_refused_unread(client: httpx.AsyncClient, length: str) -> None:
    assert (await client.post("/", content=b"x", headers={"content-length": length})).status_code == 413


async def test_what_turns_out_to_be_more_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=_chunks(2 * MAX_BODY))
    assert (answer.status_code, answer.text) == (413, f"the body of a request has at most {MAX_BODY} bytes\n")


async def test_what_does_not_come_is_refused(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    for path, says in (("/", "must come within 5 seconds"), (f"{REST}/grants", '"code":"too_slow"')):
        answer = await client.post(path, content=trickle())
        assert (answer.status_code, answer.headers["connection"]) == (408, "close")
        assert says in answer.text


async def test_programs_read_a_problem(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{REST}/grants", content=b"x" * (MAX_BODY + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["content-type"] == "application/problem+json"
