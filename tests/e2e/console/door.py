"""A door that answers as the real one does, and remembers who came: for what the real one rarely does.

The real one, with real models behind it, is in test_walk.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
from msgspec import Struct, field

from ext_authz.identity.api_tokens import unwrap
from tests.http_server import running_http_server

DECISION = "0198c0de-0000-7000-8000-0000000d1c1d"
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 1111 * 4 }}'
_TEXT = [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
_MODELS: Mapping[str, Any] = {
    "sentiment": _TEXT,
    "cancer": [{"name": "features", "datatype": "FP32", "shape": [-1, 3]}],
    "digits": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "odd": [
        {"name": "flags", "datatype": "BOOL", "shape": [-1, 2]},
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "names", "datatype": "BYTES", "shape": [-1, 2]},
    ],
    "photos": [{"name": "photo", "datatype": "FP32", "shape": [3, 224, 224]}],
    "hostile": [{"name": HOSTILE[:200], "datatype": "BYTES", "shape": [-1, 1]}],
}
_SAID = {"labels.features": "radius, texture", "image.pixels": "8x8 0..16", "example.text": "I love it"}
_LEFT = {"ratelimit": '"user-minute";r=9;t=60', "ratelimit-policy": '"user-minute";q=10;w=60'}
_SERVED = {"x-decision-id": DECISION, "x-model-version": "2", "x-model-variant": "canary"}


class Came(Struct, frozen=True):
    """One request."""

    path: str
    claims: Mapping[str, Any]
    """Of its token."""
    headers: Mapping[str, str]
    body: Any


class Door(Struct, frozen=True):
    """One that runs."""

    url: str
    came: list[Came] = field(default_factory=list)

    def last(self, path: str) -> Came:
        return next(each for each in reversed(self.came) if each.path == path)


_REFUSED: Mapping[str, tuple[int, str, str]] = {
    "limited": (429, "over_limit", "user-minute is used up: retry in 34 s"),
    "wrong": (400, "invalid_inference_request", f"text {HOSTILE} is too short"),
    "away": (503, "model_server_unavailable", "the model server does not answer, try again"),
    "revoked": (401, "invalid_token", "the token is not valid"),
}
"""By the text that the model is given."""
_OUTPUTS: Mapping[str, object] = {
    "nonsense": "none",
    "long": [{"name": "x", "datatype": "BYTES", "data": ["y" * (2 << 20)]}],
    "wide": [{"name": "x" * 20_000, "datatype": "FP32", "data": [1] * 100}] * 40,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, came: list[Came], *arguments: Any) -> None:  # noqa: ANN401 - of a socket server
        self.came = came
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._comes(None)
        name = self.path.removeprefix("/v2/models/").removesuffix("/config")
        if name not in _MODELS:
            self._refuse(403, "model_forbidden", "the right to see this model is missing, or there is none", {})
        elif self.path.endswith("/config"):
            self._answer(200, {"parameters": {key: {"string_value": said} for key, said in _SAID.items()}})
        else:
            self._answer(200, {"name": name, "versions": ["1", "2"], "inputs": _MODELS[name], "outputs": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._comes(body)
        text = body["inputs"][0]["data"][0]
        if text == "strange":
            self._refuse(999, "", "", {})
        elif text in _REFUSED:
            self._refuse(*_REFUSED[text], {**_LEFT, "retry-after": "34"} if text == "limited" else {})
        elif text in _OUTPUTS:
            self._answer(200, {"outputs": _OUTPUTS[text]})
        else:
            label = HOSTILE if "hostile" in self.path else "fine"
            numbers = {"name": "p", "datatype": "FP32", "data": [0.25] * 150}
            outputs = [{"name": "label", "datatype": "BYTES", "data": [label]}, numbers]
            self._answer(200, {"model_version": "1", "outputs": outputs}, {**_LEFT, **_SERVED})

    def _comes(self, body: object) -> None:
        token = self.headers["authorization"].removeprefix("Bearer ")
        claims = jwt.decode(unwrap(token), options={"verify_signature": False})
        self.came.append(Came(self.path, claims, {name.lower(): value for name, value in self.headers.items()}, body))

    def _refuse(self, status: int, code: str, detail: str, headers: Mapping[str, str]) -> None:
        problem = {"status": status, "code": code, "detail": detail, "decision_id": DECISION}
        self._answer(status, problem, headers)

    def _answer(self, status: int, document: object, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), "set-cookie": "of=a-model", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def running_door() -> Iterator[Door]:
    came: list[Came] = []
    with running_http_server(partial(_Handler, came)) as port:
        yield Door(f"http://127.0.0.1:{port}", came)
