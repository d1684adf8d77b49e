"""Calls the model through the door, with the token of a person; what is refused becomes sentences for that person."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import httpx
import msgspec
from msgspec import Struct

from ext_authz.identity.fetch import WrongBody, body_of
from ext_authz.web.pages import Refused

Label = Literal["positive", "neutral", "negative"]
LABELS = get_args(Label)
CANARY = {"x-experiment": "canary"}
"""Asks for version 2, for those who may choose it."""
SECOND = "2"
_INFER = "/v2/models/sentiment/infer"
_ACCEPTED = "/.tollgate/quota"
"""Answered by the door itself to every caller whom it accepts, and to nobody who is revoked; takes no quota."""
_UNAUTHORIZED = 401
SECONDS = 30.0
"""For a whole answer."""
_READ = ("x-decision-id", "x-model-version", "retry-after")
_MOST_BYTES = 1 << 20
"""Of an answer."""


class Row(Struct, frozen=True):
    """One text, and what the model says of it."""

    text: str
    label: str
    score: float
    """From -1, surely negative, to 1."""

    @property
    def probabilities(self) -> tuple[tuple[str, float], ...]:
        """By class, as version 2 means its score: twice the probability of positive, less 1."""
        positive = min(1.0, max(0.0, (1 + self.score) / 2))
        return ("positive", positive), ("negative", 1 - positive)


class Prediction(Struct, frozen=True):
    """One answer."""

    decision_id: str
    version: str
    rows: tuple[Row, ...]
    second: bool = False
    """Asked for on the page of version 2."""


class NotAnswered(Refused):
    """There is no answer; the texts are for the person."""

    def __init__(self, status: int, title: str, detail: str, decision_id: str = "", retry_after: int = 0) -> None:
        super().__init__(status, title, detail)
        self.decision_id = decision_id
        self.retry_after = retry_after
        """Seconds; 0: not known."""


class SignedOut(Exception):
    """The door does not accept the token any more."""


class _Tensor(Struct, frozen=True):
    name: str
    data: list[Any]


class _Answer(Struct, frozen=True):
    """Of KServe v2."""

    outputs: list[_Tensor]
    model_version: str = ""


class Door:
    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        """`url`: of the models."""
        self._url = url
        self._http = http

    async def ensure_accepted(self, token: str) -> None:
        """Before a person is shown anything of theirs.

        Raises:
            SignedOut: the token is revoked, or its session or user is.
            NotAnswered: the door does not say.
        """
        await self._send("GET", _ACCEPTED, token)

    async def first(self, token: str, texts: Sequence[str]) -> Prediction:
        """By whichever version is this person's.

        Raises:
            NotAnswered, SignedOut.
        """
        response = await self._call(token, texts, {})
        answer = _read(response)
        version = response.headers.get("x-model-version") or answer.model_version
        return _prediction(response, answer, version, texts)

    async def second(self, token: str, texts: Sequence[str]) -> Prediction:
        """By version 2, or not at all.

        Raises:
            NotAnswered, SignedOut.
        """
        response = await self._call(token, texts, CANARY)
        answer, version = _read(response), response.headers.get("x-model-version", "")
        if version != SECOND or answer.model_version not in ("", SECOND):
            detail = (
                "This page shows answers of version 2 only, and this call was answered by another version. Ask for the "
                "role experimenter, or use the first page."
            )
            raise NotAnswered(403, "Version 2 is not for you yet", detail, _decision(response))
        return _prediction(response, answer, version, texts, second=True)

    async def _call(self, token: str, texts: Sequence[str], headers: Mapping[str, str]) -> httpx.Response:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts), 1], "data": [*texts]}
        return await self._send("POST", _INFER, token, headers=headers, json={"inputs": [tensor]})

    async def _send(
        self, method: str, path: str, token: str, *, headers: Mapping[str, str] = {}, json: object = None
    ) -> httpx.Response:
        given = {**headers, "authorization": f"Bearer {token}"}
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._http.stream(method, self._url + path, json=json, headers=given) as streamed,
            ):
                content = await body_of(streamed, _MOST_BYTES)
        except (TimeoutError, httpx.HTTPError):  # httpx alone only limits the pauses
            raise NotAnswered(503, "The models cannot be reached", "Try again in a minute.") from None
        except WrongBody:
            raise _strange(streamed) from None
        said = {name: streamed.headers[name] for name in _READ if name in streamed.headers}
        response = httpx.Response(streamed.status_code, headers=said, content=content)
        if response.status_code == _UNAUTHORIZED:
            raise SignedOut
        if not response.is_success:
            raise refused(response)
        return response


def refused(response: httpx.Response) -> NotAnswered:
    """From the problem document (RFC 9457) of the door."""
    status, decision_id = response.status_code, _decision(response)
    after = response.headers.get("retry-after", "")
    seconds = int(after[:6]) if after.isascii() and after.isdecimal() else 0
    again = f"Try again in {_seconds(seconds)}." if seconds else "Try again later."
    match status:
        case 403:
            title, detail = "You may not use this model", f"The door says: {_detail(response)}."
        case 429:
            title, detail = "That was too often", f"You have used up your calls for now. {again}"
        case 400 | 413:
            title, detail = "The model does not take this text", f"It says: {_detail(response)}."
        case 502 | 503 | 504:
            title, detail, status = "The model does not answer now", again, 503
        case _:
            title, detail, status = "The model failed", "That is not because of your text. Try again later.", 502
    return NotAnswered(status, title, detail, decision_id, seconds)


def _seconds(count: int) -> str:
    return f"{count} second{'' if count == 1 else 's'}"


def _decision(response: httpx.Response) -> str:
    return str(response.headers.get("x-decision-id", ""))[:36]


def _detail(response: httpx.Response) -> str:
    """Of the door's own refusals only: what a proxy in between writes is for nobody here."""
    try:
        found = msgspec.json.decode(response.content, type=dict[str, Any]).get("detail")
    except msgspec.DecodeError:
        found = None
    return found[:200] if isinstance(found, str) and found else "no reason is given"


def _read(response: httpx.Response) -> _Answer:
    try:
        return msgspec.json.decode(response.content, type=_Answer)
    except msgspec.DecodeError:
        raise _strange(response) from None


def _prediction(
    response: httpx.Response, answer: _Answer, version: str, texts: Sequence[str], *, second: bool = False
) -> Prediction:
    tensors, decision_id = {tensor.name: tensor.data for tensor in answer.outputs}, _decision(response)
    try:
        labels = msgspec.convert(tensors.get("label"), list[Label])
        scores = msgspec.convert(tensors.get("score"), list[float])
        rows = tuple(Row(*each) for each in zip(texts, labels, scores, strict=True))
    except ValueError:  # msgspec's own errors are ones, too
        raise _strange(response) from None
    if not decision_id:
        raise _strange(response)
    return Prediction(decision_id, version[:18], rows, second)


def _strange(response: httpx.Response) -> NotAnswered:
    detail = "Its answer is none that this page can read. Tell the operators."
    return NotAnswered(502, "The model failed", detail, _decision(response))
