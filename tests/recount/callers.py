"""Callers who do what comes to their minds, over REST and gRPC, and write down what they got for each call."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import grpc
import httpx
from msgspec import Struct
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    ModelMetadataRequest,
    ModelStreamInferResponse,
)

from devstack.demo.participants import Token, grpc_body, rest_body
from tests.e2e.stack.bad_caller import SERVICE
from tests.e2e.stack.bad_requests import GRPC, REST, Rest

_SECONDS = 10.0
"""A caller waits so long for an answer."""
_MODELS = ("sentiment", "sentiment", "cancer", "digits")
_WRONG = ("a wrong shape", "a wrong name", "an input too few", "a version that is not there")
_WRONG_REST = (*_WRONG, "no JSON", "JSON that is cut off", "an empty body")
_FRAME = 5
"""Bytes around a message of gRPC."""
_PATIENCE = 0.03
"""Seconds that somebody waits at most who has none."""
_OF_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""What the library itself says, too, when nothing came."""
_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class Seen(Struct, frozen=True, kw_only=True):
    """What a caller knows of one call."""

    client: str
    """Of the token that the call had."""
    model: str
    decision: str = ""
    """Empty: none was named."""
    is_answered: bool = False
    """By the model, and all of the answer came."""
    is_open: bool = False
    """Nothing came: the caller hung up, or the connection broke."""
    status: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


class Caller(threading.Thread):
    """One user or service, who calls one after the other until `over`."""

    def __init__(self, rest: str, address: str, token: Token, others: list[Token], seed: str) -> None:
        """`others`: tokens that are good for fewer models, or for none, and the empty one."""
        super().__init__()
        self.seen: list[Seen] = []
        self.over = threading.Event()
        self._random = Random(seed)
        self._token, self._others = token, others
        self._http = httpx.Client(base_url=rest, timeout=_SECONDS, headers={"accept-encoding": "identity"})
        self._channel = grpc.insecure_channel(address, _OPTIONS)

    def run(self) -> None:
        kinds: list[Callable[[], Seen]] = [self._rest, self._grpc, *self._odd()]
        weights = [8, 8, *([1] * (len(kinds) - 2))]
        while not self.over.wait(self._random.uniform(0, 0.1)):  # leaves the servers some of the processor
            (kind,) = self._random.choices(kinds, weights)
            self.seen.append(kind())

    def last(self) -> Iterator[Seen]:
        """One more call over each connection, that takes no quota."""
        for kind in (self._metadata, self._grpc_metadata):
            self.seen.append(kind())
            yield self.seen[-1]

    def close(self) -> None:
        self._http.close()
        self._channel.close()

    def _odd(self) -> list[Callable[[], Seen]]:
        return [
            self._versioned, self._wrong, self._refused, self._metadata, self._index, self._impatient, self._grpc_wrong,
            self._grpc_refused, self._grpc_metadata, self._grpc_impatient, self._stream,
        ]  # fmt: skip

    def _rest(self, token: Token | None = None, seconds: float = _SECONDS) -> Seen:
        model = self._random.choice(_MODELS)
        return self._post(self._good(model), model, token, seconds)

    def _good(self, model: str, path: str = "/v2/models/{model}/infer") -> Rest:
        return Rest(json.dumps(rest_body(model)).encode(), {}, path.format(model=model))

    def _versioned(self) -> Seen:
        return self._post(self._good("cancer", "/v2/models/{model}/versions/1/infer"), "cancer")

    def _wrong(self) -> Seen:
        return self._post(REST[self._random.choice(_WRONG_REST)], "cancer")

    def _refused(self) -> Seen:
        return self._rest(self._random.choice(self._others))

    def _impatient(self) -> Seen:
        return self._rest(seconds=self._random.uniform(0.001, _PATIENCE))

    def _metadata(self) -> Seen:
        return self._sent("GET", Rest(b"", {}, "/v2/models/cancer"), "cancer")

    def _index(self) -> Seen:
        """Which Tollgate answers, and no model."""
        return self._sent("POST", Rest(b"{}", {}, "/v2/repository/index"), "", by_model=False)

    def _post(self, sent: Rest, model: str, token: Token | None = None, seconds: float = _SECONDS) -> Seen:
        return self._sent("POST", sent, model, token, seconds)

    def _sent(
        self, method: str, sent: Rest, model: str, token: Token | None = None, seconds: float = _SECONDS,
        *, by_model: bool = True,
    ) -> Seen:  # fmt: skip
        assert isinstance(sent.body, bytes)
        headers = {**sent.headers, "authorization": f"Bearer {(token or self._token).text}"}
        try:
            answer = self._http.request(method, sent.path, content=sent.body, headers=headers, timeout=seconds)
        except httpx.TransportError:
            return Seen(client=(token or self._token).client, model=model, is_open=True)
        return Seen(
            client=(token or self._token).client,
            model=model,
            decision=answer.headers.get("x-decision-id", ""),
            is_answered=answer.is_success and by_model,
            status=str(answer.status_code),
            bytes_in=len(sent.body),
            bytes_out=len(answer.content),
        )

    def _grpc(self, token: Token | None = None, seconds: float = _SECONDS) -> Seen:
        model = self._random.choice(_MODELS)
        return self._unary("ModelInfer", grpc_body(model), model, token, seconds)

    def _grpc_wrong(self) -> Seen:
        sent = ModelInferRequest.FromString(GRPC[self._random.choice(_WRONG)].message)
        return self._unary("ModelInfer", sent, "cancer")

    def _grpc_refused(self) -> Seen:
        return self._grpc(self._random.choice(self._others))

    def _grpc_impatient(self) -> Seen:
        return self._grpc(seconds=self._random.uniform(0.001, _PATIENCE))

    def _grpc_metadata(self) -> Seen:
        return self._unary("ModelMetadata", ModelMetadataRequest(name="cancer"), "cancer")

    def _unary(
        self, method: str, sent: ModelInferRequest | ModelMetadataRequest, model: str, token: Token | None = None,
        seconds: float = _SECONDS,
    ) -> Seen:  # fmt: skip
        content = sent.SerializeToString()
        rpc: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(SERVICE + method)
        call = rpc.future(content, timeout=seconds, metadata=self._bearer(token))
        if call.exception() is not None:
            return self._failed(call, model, token)
        return self._answered(call, model, token, content, call.result())

    def _stream(self) -> Seen:
        """One message, and one answer."""
        content = grpc_body("cancer").SerializeToString()
        rpc: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        call = rpc(iter([content]), timeout=_SECONDS, metadata=self._bearer(None))
        try:
            (answer,) = call
        except grpc.RpcError:
            return self._failed(call, "", None)
        assert not ModelStreamInferResponse.FromString(answer).error_message
        return self._answered(call, "", None, content, answer)

    def _answered(self, call: grpc.Call, model: str, token: Token | None, sent: bytes, answer: bytes) -> Seen:
        return Seen(
            client=(token or self._token).client,
            model=model,
            decision=_named(call),
            is_answered=True,
            status="OK",
            bytes_in=len(sent) + _FRAME,
            bytes_out=len(answer) + _FRAME,
        )

    def _failed(self, call: grpc.Call, model: str, token: Token | None) -> Seen:
        """An answer that says so has only trailers, with the decision."""
        is_open = call.code() in _OF_NOBODY and not _decision(call.trailing_metadata())
        client, status = (token or self._token).client, call.code().name
        return Seen(client=client, model=model, decision=_named(call), is_open=is_open, status=status)

    def _bearer(self, token: Token | None) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {(token or self._token).text}"),)


def _named(call: grpc.Call) -> str:
    return _decision(call.initial_metadata()) or _decision(call.trailing_metadata())


def _decision(metadata: Iterable[Any] | None) -> str:
    return str(dict(metadata or ()).get("x-decision-id", ""))
