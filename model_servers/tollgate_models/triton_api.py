"""What the watchdog asks Triton over HTTP, without any package: its repository, its statistics, and one inference."""

from __future__ import annotations

import json
import math
import select
import socket
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

_SECONDS = 10.0
"""For an answer that Triton has at hand."""
_SIZES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4, "INT32": 4}
_SIZES |= {"FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8, "STRING": 4}
"""Bytes of an element; a text without letters is its length, 0."""
_MOST_BYTES = 16 << 20
_FULL, _UNHEALTHY = 503, b"is not healthy"


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def is_of_model(self) -> bool:
        """False: Triton says that it is not healthy, or has too many that wait for it."""
        return self.status != _FULL and _UNHEALTHY not in self.body


class Address(NamedTuple):
    """Where it is, with the header that opens the restricted APIs."""

    host: str
    """Or a socket as Triton writes it: `unix:PATH`."""
    port: int
    key: Mapping[str, str]


class _Connection(HTTPConnection):
    def connect(self) -> None:
        if not self.host.startswith("unix:"):
            return super().connect()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host.removeprefix("unix:"))
        return None


class Call:
    """A request that Triton has, and may answer later."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._answered = select.poll()
        self._answered.register(connection.sock, select.POLLIN)
        self._answer: Answer | None = None
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def answer(self) -> Answer | None:
        """None: not yet. Raises OSError, HTTPException."""
        if self._answer is None and self._answered.poll(0):
            self._answer = self.wait()
        return self._answer

    def wait(self) -> Answer:
        """Ten seconds at most. Raises OSError, HTTPException."""
        try:
            answer = self._connection.getresponse()
            return Answer(answer.status, answer.read())
        finally:
            self.close()

    def close(self) -> None:
        self._connection.close()


class Triton:
    """Each method raises OSError or HTTPException where Triton does not answer as it should."""

    def __init__(self, address: Address) -> None:
        host = "127.0.0.1" if address.host == "0.0.0.0" else address.host  # noqa: S104 - compared, not listened at
        self._host, self._port, self._key = host, address.port, address.key

    def ready(self) -> set[tuple[str, str]]:
        """Model and version of those that it believes to be ready."""
        found = self._read("POST", "/v2/repository/index")
        return {(each["name"], each.get("version", "")) for each in found if each.get("state") == "READY"}

    def counts(self) -> dict[tuple[str, str], int]:
        """Batches that each model and version has done, or refused; not what Triton answered in its place."""
        found = self._read("GET", "/v2/models/stats")["model_stats"]
        return {(each["name"], each["version"]): int(each["execution_count"]) for each in found}

    def backend(self, model: str, version: str) -> str:
        """What runs it."""
        return str(self._read("GET", f"/v2/models/{model}/versions/{version}/config").get("backend", ""))

    def unload(self, model: str) -> str:
        """An empty string, or why it cannot be."""
        return _why(self._begin("POST", f"/v2/repository/models/{model}/unload").wait())

    def load(self, model: str) -> Call:
        """It answers when the model is ready, or cannot be; `outcome` says which."""
        return self._begin("POST", f"/v2/repository/models/{model}/load")

    @staticmethod
    def outcome(call: Call) -> str | None:
        """None: not yet; an empty string: it is ready; or why it is not."""
        answered = call.answer()
        return answered and _why(answered)

    def ask(self, model: str, version: str) -> Call | None:
        """One inference of zeros without the headers of the authorizer: models that look at them refuse it, and predict
        nothing. None: it cannot be made for this model."""
        place = f"/v2/models/{model}/versions/{version}"
        made = _zeros(self._read("GET", f"{place}/config"))
        if made is None:
            return None
        length, body = made
        return self._begin("POST", f"{place}/infer", body, {"Inference-Header-Content-Length": f"{length}"})

    def _read(self, method: str, path: str) -> Any:
        status, body = self._begin(method, path).wait()
        if status != 200:
            raise HTTPException(f"{path} answers {status}")
        return json.loads(body)

    def _begin(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Call:
        connection = _Connection(self._host, self._port, timeout=_SECONDS)
        try:
            connection.request(method, path, body, {"Host": "localhost", **self._key, **(headers or {})})
        except BaseException:
            connection.close()
            raise
        return Call(connection)


def _why(answer: Answer) -> str:
    return "" if answer.status == 200 else answer.body.decode(errors="replace").strip() or f"status {answer.status}"


def _zeros(config: Mapping[str, Any]) -> tuple[int, bytes] | None:
    """A body in Triton's binary form, and the length of the JSON that it begins with."""
    inputs, total = [], 0
    for each in config["input"]:
        shape = [max(1, int(size)) for size in each["dims"]]
        shape = [1, *shape] if config.get("max_batch_size") else shape
        datatype = each["data_type"].removeprefix("TYPE_")
        if datatype not in _SIZES:
            return None
        size = _SIZES[datatype] * math.prod(shape)
        kind = "BYTES" if datatype == "STRING" else datatype
        inputs.append(
            {"name": each["name"], "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}
        )
        total += size
    if total > _MOST_BYTES:
        return None
    head = json.dumps({"inputs": inputs}).encode()
    return len(head), head + bytes(total)
