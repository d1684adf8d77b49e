"""REST: what a caller may do with a model or a project of a GitLab, as clients of SharingHub ask: `/api/check/{path}`.

Whoever has set `SHARINGHUB_URL` for mlflow-sharinghub sets it to the address of the console.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from ext_authz.api.rest_stac import HEADERS, Caller, Stac, there
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
    """200 if the caller may call the model of this name, or has a part in the project of a GitLab at this path: without
    a body, or with `info` what they may do (`access_level`: 1 is a member and no more, 2 read or call, 3 create and
    update too, 4 delete or administer too)."""
    known = _known(caller)
    if not path:
        raise NotDone(Why.INVALID, "write the name of a model, or the path of a project, after check/", "path")
    access = there(await interface.catalogue.access(known, path))
    if not given.info:
        return Response(headers=HEADERS)
    found = {"id": access.number, "name": access.name, "path": access.path, "access_level": access.level}
    return JSONResponse(found | {"categories": [*access.categories]}, headers=HEADERS)


@router.get("/auth/info")
async def info(caller: Caller) -> JSONResponse:
    """200 for whoever has a token that is accepted: mlflow-sharinghub asks before it takes a request."""
    return JSONResponse({"authenticated": bool(_known(caller))}, headers=HEADERS)


def _known(caller: Identity | None) -> Identity:
    if caller is None:
        raise Denied(Reason.NO_CREDENTIAL, "credential_missing", "send a token: Authorization: Bearer TOKEN")
    return caller
