"""REST: whether a caller may use a model, as clients of SharingHub ask: `/tollgate/api/check/{path}`.

Whoever has set `SHARINGHUB_URL` for mlflow-sharinghub sets it to the address of the console.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from ext_authz.api.rest_stac import HEADERS, Caller, Stac, there
from ext_authz.catalogue.entry import MODELS
from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.tokens.model import NotDone, Why

router = APIRouter(tags=["catalogue"])


class CheckIn(BaseModel):
    """Parameters."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    info: bool = False
    """Answer with what the caller may do."""


@router.get("/check/{path:path}")
async def check(interface: Stac, caller: Caller, path: str, given: Annotated[CheckIn, Query()]) -> Response:
    """200 if the caller may call the model of this name: without a body, or with `info` what they may do
    (`access_level`: 2 call, 4 administer too)."""
    known = _known(caller)
    if not path:
        raise NotDone(Why.INVALID, "write the name of a model after check/", "path")
    level = there(await interface.catalogue.level(known, path) or None)
    if not given.info:
        return Response(headers=HEADERS)
    found = {"id": _number(path), "name": path, "path": path, "access_level": level, "categories": [MODELS]}
    return JSONResponse(found, headers=HEADERS)


@router.get("/auth/info")
async def info(caller: Caller) -> JSONResponse:
    """200 for whoever has a token that is accepted: mlflow-sharinghub asks before it takes a request."""
    return JSONResponse({"authenticated": bool(_known(caller))}, headers=HEADERS)


def _known(caller: Identity | None) -> Identity:
    if caller is None:
        raise Denied(Reason.NO_CREDENTIAL, "credential_missing", "send a token: Authorization: Bearer TOKEN")
    return caller


def _number(name: str) -> int:
    """As a project of GitLab has one: always the same of one name, and exact in a double."""
    return int.from_bytes(hashlib.sha256(f"{MODELS}/{name}".encode()).digest()[:6])
