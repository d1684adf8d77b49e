"""One `execute` of Triton holds requests of several callers: refuse some, predict the rest at once, answer each.

Second line of defence (the first is the authorizer): a model serves a request only if the headers `x-authz-model` and
`x-authz-version`, which the authorizer overwrites and Triton forwards, name this model in this version. However a
request was smuggled to a model that it was not authorised for, the headers tell. Response caching must stay off: a
cached answer skips this check.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from tollgate_models import predictions
from tollgate_models.labels import NONE, Labels, report_start

logger = logging.getLogger(__name__)

# What the authorizer writes when it decided about every model (a stream, whose caller may call them all), or every
# version. No model has this name. Where it decided about none it writes `-`, which is no name of a model either.
EVERY = "*"

MOST_SECONDS_ALONE = 5.0
"""Since a batch was first asked: others wait meanwhile. What is not asked again by then gets the error."""

_FAILED = "the model failed"
_WITH_ROWS = 2
"""Dimensions of an input, at least."""


class Refused(Exception):
    """The caller's mistake, in one sentence that the caller will read."""


class _Failed(Refused):
    """A mistake of ours in one request, in one sentence that shows nothing."""


class Batch:
    """The rows of all requests that are in order, with who sent each."""

    def __init__(self, rows: Sequence[Any], callers: Sequence[str]) -> None:
        self.rows = rows
        self.callers = callers


class _Call:
    """A request that is in order."""

    def __init__(self, request: Any, headers: Mapping[str, str], rows: np.ndarray) -> None:
        self.request = request
        self.headers = headers
        self.rows = rows
        self.columns: Mapping[str, np.ndarray] | None = None
        """What the model answered to it; None: it failed, or was not asked."""


def answer(
    requests: Sequence[Any],
    model: str,
    version: str,
    read: Callable[[Any], np.ndarray],
    predict: Callable[[Batch], Mapping[str, np.ndarray]],
    labels: Labels | None = None,
) -> list[Any]:
    """One response per request, in order. `model` and `version`: as Triton says them to `initialize`.

    `read` turns a request into rows or raises Refused; `predict` gives, per output, one value for each row. `labels`
    counts the output `label`. Where `predict` fails for all rows together, each request is asked alone, so that only
    those that it fails for get an error.
    """
    report_start(model, version)
    parts = [_call_or_refusal(request, model, version, read) for request in requests]
    calls = [part for part in parts if isinstance(part, _Call)]
    asked = time.monotonic()
    if not _ask(calls, model, version, predict, labels) and len(calls) > 1:
        for call in calls:
            if time.monotonic() - asked < MOST_SECONDS_ALONE:
                _ask([call], model, version, predict, labels)
    return [_response(part) for part in parts]


def _ask(
    calls: Sequence[_Call],
    model: str,
    version: str,
    predict: Callable[[Batch], Mapping[str, np.ndarray]],
    labels: Labels | None,
) -> bool:
    """Whether the model answered. Then each call has its columns, and is counted and logged."""
    rows = [row for call in calls for row in call.rows]
    started = time.perf_counter()
    try:
        columns = _columns(calls, rows, predict)
        if labels and rows:
            variants = [call.headers.get("x-model-variant", NONE) for call in calls for _ in call.rows]
            labels.count(zip(variants, columns["label"].flat, strict=True))
    except Exception:
        # Triton would send the traceback, with the server's paths, to the caller.
        logger.exception("model %s failed", model)
        return False
    start = 0
    for call in calls:
        stop = start + len(call.rows)
        call.columns = {name: column[start:stop] for name, column in columns.items()}
        start = stop
    if rows:
        milliseconds = (time.perf_counter() - started) * 1000
        answered = [(call.request, call.headers, len(call.rows)) for call in calls]
        predictions.keep(model, version, answered, columns, milliseconds)
    return True


def _columns(
    calls: Sequence[_Call], rows: Sequence[Any], predict: Callable[[Batch], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    callers = [call.headers.get("x-user-id", "") for call in calls for _ in call.rows]
    found = predict(Batch(rows, callers)) if rows else {}
    return {name: column.reshape(len(rows), 1) for name, column in found.items()}


def forwarded(request: Any) -> dict[str, str]:
    """The headers that Triton forwards, lower case (Envoy makes them so); a caller's own parameters lose to them.

    Triton writes the parameters first, and of two members of one name the last counts. A header that it does not
    forward has the value of the caller's parameter: then no valid request is served, which is noticed. So it is with
    `generate`, to which Triton forwards none: Envoy refuses bodies that name them (render/classification.lua).
    """
    return json.loads(request.parameters() or "{}")


def numbers(request: Any, name: str, least: float = -np.inf, most: float = np.inf) -> np.ndarray:
    """The rows of an input of finite numbers within these bounds; Triton itself looks at type and shape.

    Raises:
        Refused: they are not.
    """
    rows: np.ndarray = triton.get_input_tensor_by_name(request, name).as_numpy()
    if rows.ndim < _WITH_ROWS:  # Triton keeps 32 bits of their number: of 2^32 rows, nothing
        raise Refused(f"the shape of {name} has too many rows")
    if not np.isfinite(rows).all():
        raise Refused(f"{name} must be finite numbers")
    if (rows < least).any() or (rows > most).any():
        raise Refused(f"{name} must be numbers from {least:g} to {most:g}")
    return rows


def _call_or_refusal(request: Any, model: str, version: str, read: Callable[[Any], np.ndarray]) -> _Call | Refused:
    try:
        headers = forwarded(request)
        if headers.get("x-authz-model") not in (model, EVERY) or headers.get("x-authz-version") not in (version, EVERY):
            return Refused("not authorised for this model and version")
        return _Call(request, headers, read(request))
    except Refused as refused:
        return refused
    except Exception:
        logger.exception("model %s cannot read a request", model)
        return _Failed(_FAILED)


def _response(part: _Call | Refused) -> Any:
    if isinstance(part, Refused):
        code = triton.TritonError.INTERNAL if isinstance(part, _Failed) else triton.TritonError.INVALID_ARG
        return _error(str(part), code)
    if part.columns is None:
        return _error(_FAILED, triton.TritonError.INTERNAL)
    try:
        return triton.InferenceResponse([triton.Tensor(name, column) for name, column in part.columns.items()])
    except Exception:  # values of a type that no tensor has
        logger.exception("an answer cannot be sent")
        return _error(_FAILED, triton.TritonError.INTERNAL)


def _error(sentence: str, code: int) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(sentence, code))
