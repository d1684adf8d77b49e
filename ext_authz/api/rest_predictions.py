"""REST: the prediction log of a model, for its owners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime
from starlette.responses import StreamingResponse

from ext_authz.api.documents import Body
from ext_authz.api.rest import NO_STORE, caller, interfaces
from ext_authz.identity.api_tokens import PREDICTIONS
from ext_authz.predictions.service import Prediction, PredictionService, Which
from ext_authz.tokens.model import Actor, NotDone, Why

router = APIRouter(tags=["predictions"])
_encode = msgspec.json.Encoder().encode
_LINES = "application/jsonl"


class PredictionsOut(Body):
    """A page, the newest first."""

    predictions: list[Prediction]
    cursor: str


class DeletedOut(Body):
    """The result of a deletion."""

    deleted: int
    """Rows that were in Postgres; what models had written and nobody had moved there is not counted."""


def _of_our_time(at: datetime) -> datetime:
    at = at.astimezone(UTC)
    if not 1970 <= at.year < 9999:
        raise ValueError("no time of a call")
    return at


Time = Annotated[AwareDatetime, AfterValidator(_of_our_time)]
Model = Annotated[str, Path(max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")]
Text = Annotated[str, Query(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Cursor = Annotated[str, Query(max_length=36, pattern=r"^[0-9a-f-]*$")]
Limit = Annotated[int, Query(ge=1, le=200)]


async def _caller(request: Request) -> Actor:
    return await caller(request, PREDICTIONS)


def _predictions(request: Request) -> PredictionService:
    return interfaces(request).predictions


async def _which(
    *,
    since: Time | None = None,
    until: Time | None = None,
    version: Text = "",
    variant: Text = "",
    label: Text = "",
    decision_id: UUID | None = None,
) -> Which:
    given = {"since": since, "until": until, "decision_id": decision_id}
    times: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Which(version=version, variant=variant, label=label, **times)


Caller = Annotated[Actor, Depends(_caller)]
All = Annotated[PredictionService, Depends(_predictions)]
Chosen = Annotated[Which, Depends(_which)]


@router.get("/models/{model}/predictions")
async def list_predictions(
    caller: Caller, predictions: All, model: Model, which: Chosen, cursor: Cursor = "", limit: Limit = 50
) -> PredictionsOut:
    """What the model answered, the newest first. `until` is exclusive; `label` is the output of that name."""
    page = await predictions.page(caller, model, which, cursor=cursor, limit=limit)
    return PredictionsOut(predictions=[*page.predictions], cursor=page.cursor)


@router.get(
    "/models/{model}/predictions/export",
    response_class=StreamingResponse,
    responses={200: {"content": {_LINES: {}}, "description": "One JSON object per line, the oldest first."}},
)
async def export_predictions(caller: Caller, predictions: All, model: Model, which: Chosen) -> StreamingResponse:
    """All of them, for training."""
    found = await predictions.export(caller, model, which)
    return StreamingResponse(_lines(found), media_type=_LINES, headers=NO_STORE)


async def _lines(found: AsyncIterator[Prediction]) -> AsyncIterator[bytes]:
    async for prediction in found:
        yield _encode(prediction) + b"\n"


@router.delete("/models/{model}/predictions")
async def delete_predictions(
    caller: Caller,
    predictions: All,
    model: Model,
    *,
    since: Time | None = None,
    until: Time | None = None,
    decision_id: UUID | None = None,
    all: Literal["true"] | None = None,  # noqa: A002 - in the query
) -> DeletedOut:
    """Of a time, or of one decision; or `all=true`. After the answer none of it is there, nor comes later."""
    if (since or until or decision_id) is None and all is None:
        predictions.ensure_reader(caller, model)
        raise NotDone(Why.INVALID, "say what to delete: since, until or decision_id, or all=true", "all")
    which = await _which(since=since, until=until, decision_id=decision_id)
    return DeletedOut(deleted=await predictions.delete(caller, model, which))
