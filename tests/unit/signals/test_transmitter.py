"""A transmitter that answers anything: one sentence, and no stack trace once a second."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from ext_authz.errors import Unavailable
from ext_authz.signals import transmitter
from ext_authz.signals.stream import Stream
from ext_authz.signals.transmitter import Transmitter
from tests.tokens import ISSUER
from tests.unit.identity.world import an_issuer

STREAM = Stream(issuer="ml", id="s", audience=("a",), endpoint=f"{ISSUER}/poll")
BODIES = (
    b"",
    b"[]",
    b"null",
    b"7",
    b'"x"',
    b"{}",
    b"\xff",
    b'"\xff"',
    b"[" * 100_000,
    b'{"status": {"a": 1}}',
    b"nope",
)


def _json(document: object) -> httpx.Response:
    """As it comes over a connection: not read yet."""
    return httpx.Response(200, stream=httpx.ByteStream(json.dumps(document).encode()))


def answering(body: bytes, status: int = 200) -> Transmitter:
    """To everything but its metadata and its tokens."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("ssf-configuration"):
            names = ("configuration_endpoint", "status_endpoint")
            return _json({"issuer": ISSUER, **{name: f"{ISSUER}/{name}" for name in names}})
        if request.url.path.endswith("/token"):
            return _json({"access_token": "t", "expires_in": 60})
        return httpx.Response(status, stream=httpx.ByteStream(body))

    return Transmitter(an_issuer(), "c", "s", httpx.AsyncClient(transport=httpx.MockTransport(answer)))


@pytest.mark.parametrize("body", BODIES)
async def test_an_answer_that_is_none(body: bytes) -> None:
    asked = answering(body)
    try:
        state = await asked.status("s")
    except Unavailable:
        state = "unknown"
    assert state != "enabled"
    assert len(state) <= 200
    try:
        assert not (await asked.poll(STREAM, [], {})).sets
    except Unavailable as failure:
        assert failure.dependency == "ssf"  # noqa: PT017 - `{}` is an answer without events
    if body != b"[]":
        with pytest.raises(Unavailable):
            await asked.streams()
    with pytest.raises(Unavailable, match="status 500"):
        await answering(body, 500).streams()


class Trickling(httpx.AsyncBaseTransport):
    """Answers some day; every pause is short enough for httpx."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return httpx.Response(200, request=request)


async def test_an_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transmitter, "_PATIENCE", 0.05)
    waiting = Transmitter(an_issuer(), "c", "s", httpx.AsyncClient(transport=Trickling()))
    with pytest.raises(Unavailable, match="no answer"):
        await asyncio.wait_for(waiting.streams(), 5)
