"""The two ways to run a flow: blocking, and with asyncio. Nothing is decided here."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

import grpc
import httpx
from tritonclient.grpc import service_pb2_grpc

from tollgate.client.calls import Answer, Calls, Inputs, Model
from tollgate.client.errors import Unreachable
from tollgate.client.sign_in import SignIn, Tokens
from tollgate.client.steps import Flow, NeedToken, Pause, Reply, Rpc, Step, Tell

_T = TypeVar("_T")
_SCHEMES = ("http", "https", "grpc", "grpcs")
_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class _Settings:
    """What both clients are made of."""

    def __init__(
        self,
        url: str,
        sign_in: SignIn | str,
        *,
        issuer: str = "",
        ca: str = "",
        timeout: float = 60.0,
        attempts: int = 3,
        longest_wait: float = 60.0,
    ) -> None:
        """
        `url`: of the models, `https://models.example`; `grpcs://` to infer over gRPC, `http://` and `grpc://` without
        TLS. `sign_in`: or a token, an API token (`tgl_...`) too. `issuer`: the only identity provider to sign in at;
        without it, the one that the models' address names. `ca`: a file of certificates to trust, instead of those
        of the system. `timeout`: seconds of one request. `attempts`: of one call, where a refusal says when to try
        again and that is within `longest_wait` seconds.
        """
        if attempts < 1:
            raise ValueError("write attempts as a number from 1")
        where = _address(url)
        over_grpc, secure = where.scheme.startswith("grpc"), where.scheme in ("https", "grpcs")
        origin = f"{'https' if secure else 'http'}://{where.netloc}"
        self._timeout = timeout
        self._tls = _trusting(ca)
        self._target = where.netloc if where.port else f"{where.netloc}:{443 if secure else 80}"
        self._credentials = _credentials(ca) if secure and over_grpc else None
        self._tokens = Tokens(sign_in, origin, issuer)
        self._calls = Calls(
            origin, grpc=over_grpc, can_renew=self._tokens.can_renew, attempts=attempts, longest_wait=longest_wait
        )
        self._open()

    def _open(self) -> None:
        """Whatever does the I/O; nothing is sent yet."""
        raise NotImplementedError

    def _token(self) -> Flow[str]:
        token: str = yield NeedToken()
        return token


class Client(_Settings):
    """Blocks. May be used by several threads."""

    def _open(self) -> None:
        self._http = httpx.Client(verify=self._tls, timeout=self._timeout)
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def infer(self, model: str, inputs: Inputs, version: str = "") -> Answer:
        return self._run(self._calls.infer(model, inputs, version))

    def models(self) -> tuple[Model, ...]:
        return self._run(self._calls.models())

    def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        return self._run(self._calls.metadata(model, version))

    def token(self) -> str:
        """For anything else that calls models, such as tritonclient's streams."""
        return self._run(self._token())

    def close(self) -> None:
        self._http.close()
        if self._channel is not None:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[_T]) -> _T:
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = self._done(step)

    def _done(self, step: Step) -> object:
        match step:
            case httpx.Request():
                try:
                    return self._http.send(step)
                except httpx.RequestError as failure:
                    raise _unreachable(step, failure) from failure
            case Rpc():
                return self._replied(step)
            case Pause():
                time.sleep(step.seconds)
                return None
            case Tell():
                return step.call()
            case NeedToken():
                with self._lock:
                    return self._tokens.fresh(step.refused) or self._run(self._tokens.renewed())

    def _replied(self, rpc: Rpc) -> Reply:
        with self._lock:
            if self._channel is None:
                self._channel = self._connected()
        method = getattr(service_pb2_grpc.GRPCInferenceServiceStub(self._channel), rpc.method)
        try:
            message, call = method.with_call(rpc.message, self._timeout, [*rpc.metadata.items()])
        except grpc.RpcError as failure:
            return _failed(failure)
        return Reply("OK", "", message, _joined(call.initial_metadata(), call.trailing_metadata()))

    def _connected(self) -> grpc.Channel:
        if self._credentials:
            return grpc.secure_channel(self._target, self._credentials, _UNBOUNDED)
        return grpc.insecure_channel(self._target, _UNBOUNDED)


class AsyncClient(_Settings):
    """For asyncio, within one loop."""

    def _open(self) -> None:
        self._http = httpx.AsyncClient(verify=self._tls, timeout=self._timeout)
        self._lock = asyncio.Lock()
        self._channel: grpc.aio.Channel | None = None

    async def infer(self, model: str, inputs: Inputs, version: str = "") -> Answer:
        return await self._run(self._calls.infer(model, inputs, version))

    async def models(self) -> tuple[Model, ...]:
        return await self._run(self._calls.models())

    async def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        return await self._run(self._calls.metadata(model, version))

    async def token(self) -> str:
        """For anything else that calls models, such as tritonclient's streams."""
        return await self._run(self._token())

    async def aclose(self) -> None:
        await self._http.aclose()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _run(self, flow: Flow[_T]) -> _T:
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = await self._done(step)

    async def _done(self, step: Step) -> object:
        match step:
            case httpx.Request():
                try:
                    return await self._http.send(step)
                except httpx.RequestError as failure:
                    raise _unreachable(step, failure) from failure
            case Rpc():
                return await self._replied(step)
            case Pause():
                await asyncio.sleep(step.seconds)
                return None
            case Tell():
                told = step.call()
                return await told if inspect.isawaitable(told) else told
            case NeedToken():
                async with self._lock:
                    return self._tokens.fresh(step.refused) or await self._run(self._tokens.renewed())

    async def _replied(self, rpc: Rpc) -> Reply:
        if self._channel is None:  # here, because a channel belongs to the loop that runs
            self._channel = self._connected()
        method = getattr(service_pb2_grpc.GRPCInferenceServiceStub(self._channel), rpc.method)
        call = method(rpc.message, timeout=self._timeout, metadata=[*rpc.metadata.items()])
        try:
            message = await call
        except grpc.RpcError as failure:
            return _failed(failure)
        return Reply("OK", "", message, _joined(await call.initial_metadata(), await call.trailing_metadata()))

    def _connected(self) -> grpc.aio.Channel:
        if self._credentials:
            return grpc.aio.secure_channel(self._target, self._credentials, _UNBOUNDED)
        return grpc.aio.insecure_channel(self._target, _UNBOUNDED)


def _address(url: str) -> SplitResult:
    where = urlsplit(url)
    beyond = where.path.strip("/") or where.query or where.fragment or "@" in where.netloc
    if where.scheme not in _SCHEMES or not where.netloc or beyond:
        raise ValueError(f"write an address of models as https://HOST or grpcs://HOST, not {url!r}")
    return where


def _unreachable(request: httpx.Request, failure: httpx.RequestError) -> Unreachable:
    return Unreachable(f"{request.url.scheme}://{request.url.netloc.decode()}: {failure or type(failure).__name__}")


def _failed(call: Any) -> Reply:  # noqa: ANN401 - of grpc or grpc.aio: the error is the call
    metadata = _joined(call.initial_metadata(), call.trailing_metadata())
    return Reply(call.code().name, call.details() or "", None, metadata)


def _joined(*metadata: Any) -> Mapping[str, str]:  # noqa: ANN401 - of grpc or grpc.aio
    return {str(name): str(value) for each in metadata for name, value in each or ()}


def _trusting(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as failure:
        raise ValueError(f"write ca as a file of certificates in PEM: {ca}: {failure}") from failure


def _credentials(ca: str) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(Path(ca).read_bytes() if ca else None)
