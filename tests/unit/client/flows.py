"""Runs flows without any I/O: a script answers their steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import httpx

from tollgate.client.steps import Flow, NeedToken, Pause, Rpc, Step, Tell

T = TypeVar("T")
Answering = Callable[[httpx.Request], httpx.Response]


class Script:
    """Answers in order, and keeps what was asked."""

    def __init__(self, *answers: object, tokens: Iterable[str] = ("t1", "t2", "t3")) -> None:
        self._answers = [*answers]
        self._tokens = iter(tokens)
        self.sent: list[httpx.Request | Rpc] = []
        self.waited: list[float] = []
        self.refused_tokens: list[str] = []

    def run(self, flow: Flow[T]) -> T:
        answer: Any = None
        while True:
            try:
                answer = self._answer(flow.send(answer))
            except StopIteration as end:
                assert not self._answers, "not everything was asked"
                return end.value  # type: ignore[no-any-return]

    def _answer(self, step: Step) -> object:
        match step:
            case NeedToken():
                self.refused_tokens.append(step.refused)
                return next(self._tokens)
            case Pause():
                self.waited.append(step.seconds)
                return None
            case Tell():
                return step.call()
        self.sent.append(step)
        answer = self._answers.pop(0)
        if isinstance(answer, httpx.Response) and isinstance(step, httpx.Request):
            answer.request = step
        return answer


def answer(status: int = 200, headers: Mapping[str, str] | None = None, /, **document: object) -> httpx.Response:
    """JSON."""
    return httpx.Response(status, headers=headers or {}, content=json.dumps(document).encode())


def form(request: httpx.Request | Rpc) -> dict[str, str]:
    assert isinstance(request, httpx.Request)
    return dict(httpx.QueryParams(request.content.decode()).items())
