"""What the console asks at the door, and what it makes of the answers; a person takes no more than their share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ext_authz.console import door as module
from ext_authz.console.door import Answer, Door, Left

Handler = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
NAMES = '"user-minute";r=9;t=60, "a, b";r=0;t=3600'


def door_of(handler: Handler) -> Door:
    http = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    nothing: Any = None
    return Door("http://door:8080", "https://models.example", http, nothing)


def visit_of(subject: str) -> Any:  # noqa: ANN401 - what the door reads of it
    return SimpleNamespace(actor=SimpleNamespace(issuer="demo", subject=subject))


async def infer(door: Door, subject: str = "erin", path: str = "/v2/models/m/infer") -> Answer:
    return await door.infer(visit_of(subject), "t", path, {"inputs": []})


def streamed(status: int = 200, body: bytes = b"{}", **headers: str) -> httpx.Response:
    async def content() -> AsyncIterator[bytes]:
        yield body

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, content=content())


def answered(**headers: str) -> Answer:
    return Answer(200, {name.replace("_", "-"): value for name, value in headers.items()}, b"{}", 1)


async def test_nothing_of_one_person_goes_along_with_another() -> None:
    seen: list[httpx.Request] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return streamed(set_cookie="mine=1; Path=/")

    door = door_of(handler)
    await infer(door)
    await infer(door, "frank")
    assert [request.headers["authorization"] for request in seen] == ["Bearer t"] * 2
    assert [(str(each.url.host), each.headers["host"]) for each in seen] == [("door", "models.example")] * 2
    assert not any("cookie" in request.headers for request in seen)


async def test_a_redirect_is_no_answer_that_is_followed() -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        return streamed(307, location="http://elsewhere/")

    assert (await infer(door_of(handler))).status == 307


@pytest.mark.parametrize(
    ("failure", "status"),
    [(httpx.ConnectError("no"), 503), (httpx.ReadTimeout("late"), 504), (TimeoutError(), 504)],
)
async def test_no_answer_is_a_status_and_a_sentence(failure: Exception, status: int) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        raise failure

    answer = await infer(door_of(handler))
    assert answer.status == status
    assert answer.detail
    assert "no" not in answer.detail.split()[-1], "what the library says is for the log of nobody"


async def test_an_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)

    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drops())

    assert (await infer(door_of(handler))).status == 504


async def test_an_answer_that_is_too_long() -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        return streamed(body=b" " * ((1 << 20) + 1))

    answer = await infer(door_of(handler))
    assert (answer.status, answer.detail) == (502, "the answer has more than 1 MB")


async def test_a_person_waits_for_two_answers_at_a_time() -> None:
    goes_on = asyncio.Event()

    async def handler(_: httpx.Request) -> httpx.Response:
        await goes_on.wait()
        return streamed()

    door = door_of(handler)
    waiting = [asyncio.create_task(infer(door)) for _ in range(2)]
    other = asyncio.create_task(infer(door, "frank"))
    await asyncio.sleep(0)
    refused = await infer(door)
    assert (refused.status, refused.detail) == (429, "other calls of yours have not been answered yet: wait for them")
    goes_on.set()
    assert [each.status for each in await asyncio.gather(*waiting, other)] == [200] * 3
    assert (await infer(door)).status == 200


def test_what_is_left_is_read_from_both_headers() -> None:
    policy = '"user-minute";q=10;w=60, "other";q=1;w=1'
    answer = answered(ratelimit=NAMES, ratelimit_policy=policy)
    assert answer.quotas == (Left("user-minute", 9, 10, 60), Left("a, b", 0, 0, 3600))


@pytest.mark.parametrize("header", ["", "nonsense", '"x"', '"x";r=a', '"x";r=' + "9" * 30, "a" * 100_000])
def test_what_is_no_quota_is_none(header: str) -> None:
    assert answered(ratelimit=header, ratelimit_policy=header).quotas == ()
    assert answered(retry_after=header).retry_after == 0


@pytest.mark.parametrize("body", [b"", b"[]", b'{"detail": 7}', b'{"detail": ', b"\xff"])
def test_what_says_nothing_says_nothing(body: bytes) -> None:
    answer = Answer(400, {}, body, 1)
    assert (answer.detail, answer.code, answer.decision_id, answer.version) == ("", "", "", "")


def test_the_headers_come_before_the_body() -> None:
    body = b'{"model_version": "1", "decision_id": "b", "error": "no"}'
    assert Answer(200, {"x-model-version": "2", "x-decision-id": "a"}, body, 1).version == "2"
    assert Answer(200, {}, body, 1).decision_id == "b"
    assert Answer(200, {}, body, 1).detail == "no"
