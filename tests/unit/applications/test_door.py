"""What the door answers, and what a person reads of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from applications.sentiment.door import Door, NotAnswered, Prediction, Row, SignedOut

DECISION = "01a1f90a-d880-7b90-ac41-dd5d1119f28a"


def answer(*labels: str, version: str = "1", score: float = 0.5) -> dict[str, Any]:
    scores = [score] * len(labels)
    outputs = [{"name": "label", "data": [*labels]}, {"name": "score", "data": scores}]
    return {"model_name": "sentiment", "model_version": version, "outputs": outputs}


class Streamed(httpx.AsyncByteStream):
    """A body, of which whatever is not read is never made."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.made = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._content), 65_536):
            self.made += 1
            yield self._content[at : at + 65_536]


class Models:
    """Answers every call in one way, and keeps it."""

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        self.calls: list[httpx.Request] = []
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = {"x-decision-id": DECISION, **(headers or {})}
        self.body = Streamed(content)

        def answered(request: httpx.Request) -> httpx.Response:
            self.calls.append(request)
            return httpx.Response(status, stream=self.body, headers=response)

        self.door = Door("https://models.example", httpx.AsyncClient(transport=httpx.MockTransport(answered)))


async def test_the_model_is_asked_as_the_person() -> None:
    models = Models(200, answer("positive", "negative"))
    found = await models.door.first("t", ["I love it", "awful"])
    assert found == Prediction(DECISION, "1", (Row("I love it", "positive", 0.5), Row("awful", "negative", 0.5)))
    [call] = models.calls
    assert (call.url.path, call.headers["authorization"]) == ("/v2/models/sentiment/infer", "Bearer t")
    assert "x-experiment" not in call.headers
    [tensor] = json.loads(call.content)["inputs"]
    assert (tensor["shape"], tensor["data"]) == ([2, 1], ["I love it", "awful"])


async def test_the_version_that_answered_is_that_of_the_experiment() -> None:
    models = Models(200, answer("positive", version="2"), {"x-model-version": "2"})
    assert (await models.door.first("t", ["a"])).version == "2"
    found = await models.door.second("t", ["a"])
    assert (found.version, found.second, models.calls[-1].headers["x-experiment"]) == ("2", True, "canary")
    assert found.rows[0].probabilities == (("positive", 0.75), ("negative", 0.25))


@pytest.mark.parametrize(
    ("said", "served"), [("1", "1"), ("", "2"), ("2", "1"), ("1", "2"), ("22", "2"), ("2.0", "2"), ("", "")]
)
async def test_the_second_page_shows_no_other_version(said: str, served: str) -> None:
    models = Models(200, answer("positive", version=served), {"x-model-version": said} if said else {})
    with pytest.raises(NotAnswered) as refused:
        await models.door.second("t", ["a"])
    assert (refused.value.status, refused.value.decision_id) == (403, DECISION)
    assert "answered by another version" in refused.value.detail


PROBLEM = {"detail": "this token may not call the model 'sentiment'", "code": "model_forbidden"}


@pytest.mark.parametrize(
    ("status", "headers", "shown", "detail"),
    [
        (403, {}, 403, "The door says: this token may not call the model 'sentiment'."),
        (429, {"retry-after": "37"}, 429, "You have used up your calls for now. Try again in 37 seconds."),
        (429, {"retry-after": "1"}, 429, "You have used up your calls for now. Try again in 1 second."),
        (429, {}, 429, "You have used up your calls for now. Try again later."),
        (400, {}, 400, "It says: this token may not call the model 'sentiment'."),
        (503, {"retry-after": "1"}, 503, "Try again in 1 second."),
        (504, {"retry-after": "Wed, 21 Oct 2026"}, 503, "Try again later."),
        (500, {}, 502, "That is not because of your text. Try again later."),
        (302, {}, 502, "That is not because of your text. Try again later."),
    ],
)
async def test_a_refusal_is_a_sentence_with_its_decision(
    status: int, headers: Mapping[str, str], shown: int, detail: str
) -> None:
    with pytest.raises(NotAnswered) as refused:
        await Models(status, PROBLEM, headers).door.first("t", ["a"])
    assert (refused.value.status, refused.value.detail) == (shown, detail)
    assert refused.value.decision_id == DECISION


async def test_a_token_that_is_not_accepted_ends_the_session() -> None:
    with pytest.raises(SignedOut):
        await Models(401, PROBLEM).door.first("t", ["a"])


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"detail": 5}', b"\xff"])
async def test_what_is_no_problem_document_is_not_shown(body: bytes) -> None:
    with pytest.raises(NotAnswered) as refused:
        await Models(403, body).door.first("t", ["a"])
    assert refused.value.detail == "The door says: no reason is given."


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        {"outputs": []},
        {"outputs": [{"name": "label"}]},
        answer("positive", "positive"),
        answer("<script>"),
        {"outputs": [{"name": "label", "data": ["positive"]}, {"name": "score", "data": ["much"]}]},
    ],
)
async def test_an_answer_of_another_form_is_not_shown(body: object) -> None:
    with pytest.raises(NotAnswered) as refused:
        await Models(200, body).door.first("t", ["a"])
    assert (refused.value.status, refused.value.title) == (502, "The model failed")


async def test_of_an_answer_that_never_ends_a_part_is_read() -> None:
    models = Models(200, b" " * (100 << 20))
    with pytest.raises(NotAnswered) as refused:
        await models.door.first("t", ["a"])
    assert (refused.value.status, refused.value.decision_id) == (502, DECISION)
    assert models.body.made <= 17


async def test_without_a_decision_nothing_could_be_said_of_it() -> None:
    with pytest.raises(NotAnswered):
        await Models(200, answer("positive"), {"x-decision-id": ""}).door.first("t", ["a"])


async def test_nobody_there() -> None:
    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    door = Door("https://models.example", httpx.AsyncClient(transport=httpx.MockTransport(gone)))
    with pytest.raises(NotAnswered, match="cannot be reached"):
        await door.first("t", ["a"])


async def test_the_door_says_whom_it_accepts() -> None:
    """By an answer of its own, which takes no quota and asks no model."""
    models = Models(200, {"limits": []})
    await models.door.ensure_accepted("t")
    [call] = models.calls
    assert (call.method, call.url.path, call.headers["authorization"]) == ("GET", "/.tollgate/quota", "Bearer t")
    assert call.content == b""
    with pytest.raises(SignedOut):
        await Models(401, {}).door.ensure_accepted("t")
    for status in (403, 429, 500, 503):
        with pytest.raises(NotAnswered):
            await Models(status, {}).door.ensure_accepted("t")
