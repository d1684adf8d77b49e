"""The ASGI application: each call goes from Envoy to MLflow, or is refused in MLflow's own form."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from ext_authz.filter.calls import Call, read_call
from ext_authz.filter.decision import ensure_allowed
from ext_authz.filter.listings import listed
from ext_authz.filter.mlflow import Mlflow, passed_on
from ext_authz.filter.refusals import Refused, forbidden, too_large, unavailable, unusable
from ext_authz.filter.rights import rights_of
from ext_authz.identity.identity import printable

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds for a body in JSON, as Envoy waits."""
_LISTINGS = 8
"""Searches at a time, whose answers are in memory; others wait."""


class Filter:
    """In front of one MLflow server. It gets paths without the prefix of the door."""

    def __init__(self, mlflow: Mlflow, artifact_bytes: int) -> None:
        self._mlflow = mlflow
        self._artifact_bytes = artifact_bytes
        self._listing = asyncio.Semaphore(_LISTINGS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request, has_begun = Request(scope, receive), False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with self._answer(request) as response:
                await response(scope, receive, noted)
        except Refused as refused:
            _log(request, refused)
            if has_begun:  # half of an artifact: the connection is closed, so that the caller sees that it is half
                raise
            await _refusal(refused)(scope, receive, send)
        except ClientDisconnect:
            return

    @asynccontextmanager
    async def _answer(self, request: Request) -> AsyncGenerator[Response]:
        rights = rights_of(request.headers)
        call = await _read(request)
        if listing := call.endpoint.listing:
            async with self._listing:
                yield JSONResponse(await listed(call, listing, rights.readable(), self._mlflow), headers=_UNKEPT)
            return
        if call.endpoint.action is None:
            yield await self._server_info(call)
            return
        await ensure_allowed(call, rights, self._mlflow)
        async with self._passed_on(call, request) as response:
            yield response

    async def _server_info(self, call: Call) -> Response:
        """What MLflow's client goes by: where it were told of addresses in the store, it would ask for nothing else."""
        status, found = await self._mlflow.ask(call.endpoint.method, call.target)
        if status != HTTPStatus.OK:
            raise unavailable(f"MLflow did not say what it is (status {status})")
        return JSONResponse({**found, **_NOT_OFFERED}, headers=_UNKEPT)

    @asynccontextmanager
    async def _passed_on(self, call: Call, request: Request) -> AsyncGenerator[Response]:
        headers = {name: request.headers[name] for name in _SENT if name in request.headers}
        content = self._content(request) if call.endpoint.has_content else call.content
        known = headers if call.endpoint.has_content else {}
        async with self._mlflow.answer(call.endpoint.method, call.target, content, known) as response:
            if refused := _failure(response):
                raise refused
            yield StreamingResponse(response.aiter_raw(), response.status_code, passed_on(response))

    async def _content(self, request: Request) -> AsyncIterator[bytes]:
        """Of an artifact, piece by piece."""
        passed = 0
        async for chunk in request.stream():
            passed += len(chunk)
            if passed > self._artifact_bytes:
                raise too_large(self._artifact_bytes)
            yield chunk


_SENT = ("content-type", "content-length")
"""Headers of an artifact that MLflow gets."""
_UNKEPT = {"cache-control": "no-store"}
_NOT_OFFERED = {
    "multipart_uploads_enabled": False,
    "multipart_downloads_enabled": False,
    "presigned_upload_run_id_supported": False,
    "presigned_upload_model_id_supported": False,
}


def application(mlflow: Mlflow, prefix: str, artifact_bytes: int) -> Starlette:
    """`prefix`: of the door, such as `/mlflow`. `/healthz` is not below it: the door has no way there."""
    routes = [Route("/healthz", _alive), Mount(prefix, app=Filter(mlflow, artifact_bytes))]
    application = Starlette(routes=routes)
    application.router.redirect_slashes = False
    return application


async def _alive(_: Request) -> PlainTextResponse:
    return PlainTextResponse("alive\n")


async def _read(request: Request) -> Call:
    try:
        async with asyncio.timeout(PATIENCE):
            return await read_call(request, _path(request))
    except TimeoutError:
        raise unusable(f"the body did not come within {PATIENCE:g} seconds") from None


def _path(request: Request) -> str:
    """Below the prefix, decoded once. A slash that was escaped is none."""
    raw = request.scope.get("raw_path", b"").lower()
    if b"%2f" in raw or b"%5c" in raw:
        raise unusable("a path has no escaped slashes")
    path: str = request.scope["path"].removeprefix(request.scope["root_path"])
    return path or "/"


def _failure(response: httpx.Response) -> Refused | None:
    """Answers that no caller gets: where else to go, and what MLflow says when it fails."""
    if response.is_redirect or response.status_code < HTTPStatus.OK:
        return forbidden("MLflow refers to another place, which is not reached through this door")
    if response.is_server_error:
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return unavailable("MLflow is not available")
        return Refused(HTTPStatus.BAD_GATEWAY, "INTERNAL_ERROR", f"MLflow failed (status {response.status_code})")
    return None


def _refusal(refused: Refused) -> Response:
    response = refused.response()
    response.headers["connection"] = "close"  # what is left of a body is nothing that a call could follow on
    return response


def _log(request: Request, refused: Refused) -> None:
    """Who was refused what; never a query or a body."""
    found = {"user": printable(request.headers.get("x-user-id", "")), "method": request.method}
    found |= {"path": printable(request.scope["path"]), "status": str(int(refused.status)), "code": refused.code}
    logger.info("call refused", extra={**found, "decision_id": printable(request.headers.get("x-decision-id", ""))})
