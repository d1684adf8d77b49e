"""A stand-in for MLflow that knows three experiments, and the filter in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote

import httpx
from starlette.types import Message

from ext_authz.filter.application import application
from ext_authz.filter.mlflow import Mlflow
from tests.fakes import FakeClock

EXPERIMENTS = {"0": "Default", "1": "forecast/first", "2": "vision/first", "3": "vision/second"}
RUNS = {"a" * 32: "1", "b" * 32: "2", "c" * 32: "3"}
MODELS = {f"m-{run}": experiment for run, experiment in RUNS.items()}
A, B, C = RUNS
"""A run of forecast, and two of vision."""
API = "/mlflow/api/2.0/mlflow"
FILES = "/mlflow/api/2.0/mlflow-artifacts/artifacts"


class Chunks(httpx.AsyncByteStream):
    """A body that comes in parts, of which whatever is not read is never made; an exception ends it."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts
        self.made = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            self.made += 1
            if isinstance(part, Exception):
                raise part
            yield part


class Server:
    """Answers lookups by what it knows, and every other call as a test says; keeps both."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.experiments = dict(EXPERIMENTS)
        self.looked_up: list[str] = []
        self.calls: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.answer: tuple[int, bytes, Mapping[str, str]] | Exception = 200, b"{}", {}
        self._http = httpx.AsyncClient(transport=httpx.MockTransport(self._answered))
        mlflow = Mlflow("http://mlflow", self._http, self.clock)
        self._app = application(mlflow, "/mlflow", artifact_bytes=1000)
        self.caller = httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://filter")

    async def call(
        self,
        method: str,
        path: str,
        roles: Sequence[str] = ("mlflow:forecast:*",),
        **sent: Any,  # noqa: ANN401
    ) -> httpx.Response:
        headers = {"x-user-id": "alice", "x-user-roles": ",".join(roles) or "-", **sent.pop("headers", {})}
        return await self.caller.request(method, path, headers=headers, **sent)

    async def raw(self, method: str, path: str) -> int:
        """The status for a path that no client would send as it is; from who may do everything."""
        headers = [(b"x-user-id", b"alice"), (b"x-user-roles", b"mlflow:%2A:%2A")]
        scope = {"type": "http", "method": method, "headers": headers, "query_string": b"", "root_path": ""}
        said: list[Message] = []

        body: list[Message] = [{"type": "http.request", "body": b"x", "more_body": False}]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()
            return body.pop()

        async def send(message: Message) -> None:
            said.append(message)

        await self._app({**scope, "path": unquote(path), "raw_path": path.encode()}, receive, send)
        return int(said[0]["status"])

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and (found := self._known(request)) is not None:
            self.looked_up.append(request.url.path)
            return found
        self.calls.append(request)
        self.bodies.append(await request.aread())
        if isinstance(self.answer, Exception):
            raise self.answer
        status, body, headers = self.answer
        return httpx.Response(status, stream=Chunks(*_parts(body)), headers=headers)

    def _known(self, request: httpx.Request) -> httpx.Response | None:
        """Lookups have exactly one id."""
        query = {name: value[0] for name, value in parse_qs(request.url.query.decode()).items()}
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        match path.split("/"), query:
            case ["experiments", "get"], {"experiment_id": number}:
                name = self.experiments.get(number)
                return _found("experiment", name and {"experiment_id": number, "name": name})
            case ["runs", "get"], {"run_id": run} if len(query) == 1:
                return _found("run", _in("run_id", run, RUNS))
            case ["logged-models", model], _:
                return _found("model", _in("model_id", model, MODELS))
        return None


def _in(key: str, value: str, known: Mapping[str, str]) -> Mapping[str, Any] | None:
    return {"info": {key: value, "experiment_id": known[value]}} if value in known else None


def _found(key: str, value: object) -> httpx.Response:
    content = json.dumps({key: value} if value else {"error_code": "X"}).encode()
    return httpx.Response(200 if value else 404, stream=Chunks(content))


def _parts(body: bytes) -> Iterator[bytes]:
    return (body[at : at + 65_536] for at in range(0, len(body), 65_536))


def sent(request: httpx.Request, body: bytes) -> tuple[str, str, object]:
    """What MLflow got."""
    return request.method, request.url.raw_path.decode(), json.loads(body) if body else None
