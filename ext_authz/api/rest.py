"""The REST interface, `/tollgate/api/v1`: who calls, what refusals look like, and its OpenAPI description.

The endpoints are in `rest_tokens.py`, `rest_revocations.py`, `rest_predictions.py`, `rest_billing.py` and
`rest_catalogue.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from ext_authz import __version__
from ext_authz.api.callers import Callers
from ext_authz.api.documents import Problem
from ext_authz.api.failures import Failure, failure_of, unreadable, unserved
from ext_authz.billing.service import BillingService
from ext_authz.catalogue.publishing import Publishing
from ext_authz.catalogue.using import Using
from ext_authz.errors import TollgateError
from ext_authz.predictions.service import PredictionService
from ext_authz.tokens.model import Actor, NotDone, Why
from ext_authz.tokens.revocations import Revocations
from ext_authz.tokens.service import TokenService

PROGRAMS = "/tollgate/api"
"""Of all that programs read."""
PREFIX = f"{PROGRAMS}/v1"
_DESCRIPTION = """\
API tokens, revocations, predictions, bills and the catalogue. Send `Authorization: Bearer TOKEN`: an access token of
the identity provider, or an API token with the scope `tollgate:tokens` (for revocations `tollgate:revocations`, for
predictions `tollgate:predictions`, for bills `tollgate:billing`, for the catalogue `tollgate:catalogue`). Times are
UTC, durations seconds.
"""
FORM = "application/x-www-form-urlencoded"
_PROBLEM = "application/problem+json"
NO_STORE = {"cache-control": "no-store"}

PROBLEMS: Mapping[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {_PROBLEM: {"schema": Problem.model_json_schema()}}}
    for status, text in {
        400: "The request is wrong.",
        401: "No token, or one that is not accepted.",
        403: "Not permitted, or more than the owner may do.",
        404: "Nothing there, or nothing that the caller may know of.",
        408: "The body did not come in time.",
        409: "It conflicts with what is there.",
        412: "It is not the version that If-Match names.",
        413: "The body is too large.",
        429: "Too many tokens from this address were refused: wait.",
        503: "A store does not answer: repeat the request.",
    }.items()
}


async def form_fields(request: Request, most: int) -> Mapping[str, list[str]] | None:
    """Of a form, whose size was bounded before (`web/bodies.py`); None: the body is something else.

    Raises:
        ValueError: it cannot be read, or has more than `most` fields.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return None
    return parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=most)


class Interfaces:
    """What the endpoints use; one object per process."""

    def __init__(
        self,
        tokens: TokenService,
        revocations: Revocations,
        predictions: PredictionService,
        billing: BillingService,
        publishing: Publishing,
        using: Using,
        callers: Callers,
    ) -> None:
        self.tokens = tokens
        self.publishing = publishing
        self.using = using
        self.predictions = predictions
        self.billing = billing
        self.revocations = revocations
        self.callers = callers


def interfaces(request: Request) -> Interfaces:
    """Those of the application that serves this request."""
    found: Interfaces = request.app.state.interfaces
    return found


async def caller(request: Request, scope: str) -> Actor:
    """Who sends this request; `scope`: what an API token must have for it."""
    return await interfaces(request).callers.caller(request, scope, "rest")


def rest(parts: Interfaces, routers: tuple[APIRouter, ...]) -> FastAPI:
    """The application, to be mounted at `PREFIX`."""
    application = described("Tollgate", _DESCRIPTION, "/openapi.json", PREFIX)
    application.state.interfaces = parts
    for router in routers:
        application.include_router(router, responses={**PROBLEMS})
    return application


def described(title: str, description: str, openapi: str, prefix: str) -> FastAPI:
    """An application without endpoints, whose failures are problems; to be mounted at `prefix`, with its OpenAPI
    description at the path `openapi` in there."""
    application = FastAPI(
        title=title,
        version=__version__,
        description=description,
        openapi_url=openapi,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    application.state.described_at = prefix + openapi
    application.add_exception_handler(RequestValidationError, _invalid)
    application.add_exception_handler(HTTPException, _unserved)
    application.add_exception_handler(TollgateError, _failed)
    application.add_exception_handler(Exception, _failed)
    return application


async def _failed(_: Request, error: Exception) -> Response:
    return problem(failure_of(error))


async def _invalid(_: Request, error: Exception) -> Response:
    """The first thing that is wrong with a request; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as it is registered
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem(unreadable())
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))
    detail = f"{field or 'the body'}: {first['msg'].removeprefix('Value error, ')}"
    return problem(failure_of(NotDone(Why.INVALID, detail, field)))


async def _unserved(request: Request, error: Exception) -> Response:
    """A path or method that is not served, or a body that FastAPI could not even try to read as JSON."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as it is registered
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return problem(unreadable())
    answer = problem(unserved(error.status_code, request.app.state.described_at))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        answer.headers["allow"] = allowed(request)
    return answer


def allowed(request: Request) -> str:
    """The methods that its path has, by all of its routes, for the header Allow (RFC 9110 section 15.5.6)."""
    routes = request.app.router.routes
    methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    served = (m for m in methods if any(r.matches({**request.scope, "method": m})[0] is Match.FULL for r in routes))
    return ", ".join(served)


def problem(failure: Failure) -> JSONResponse:
    """RFC 9457."""
    body = {
        "type": f"urn:tollgate:problem:{failure.code}",
        "title": failure.title,
        "status": failure.http,
        "detail": failure.detail,
        "code": failure.code,
        "field": failure.field,
    }
    headers = dict(NO_STORE)
    if failure.challenge is not None:
        headers["www-authenticate"] = _challenge(failure)
    if failure.retry_after:
        headers["retry-after"] = str(failure.retry_after)
    return JSONResponse(body, failure.http, headers=headers, media_type=_PROBLEM)


def _challenge(failure: Failure) -> str:
    parts = {"error": failure.challenge, "scope": failure.scope}
    return 'Bearer realm="tollgate"' + "".join(f', {name}="{value}"' for name, value in parts.items() if value)
