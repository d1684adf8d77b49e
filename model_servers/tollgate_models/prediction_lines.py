"""What a line of the prediction log says: one row that a model answered, within bounds.

A line does not say who called, but by which decision: the usage worker looks that up in the ledger. Headers of a
request that did not come through the authorizer can say anything.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

MOST_OF_ROW = 32 << 10
"""Bytes of the inputs of one row in JSON, and of its outputs: what is longer is left out, which the line says."""
_OVERHEAD = 500
_NO_VARIANT = ("", "-")


class Origin(NamedTuple):
    """What all lines of a process have in common."""

    model: str
    version: str
    host: str
    variant: str
    """That this instance serves; empty: it serves all."""


class Call(NamedTuple):
    """One request that was answered."""

    at: float
    headers: Mapping[str, str]
    inputs: Mapping[str, np.ndarray | None]
    """By name, one element per row; None: too long."""
    outputs: Mapping[str, np.ndarray]
    rows: int
    milliseconds: float
    """Of the model, for the batch that it was part of."""

    @property
    def weight(self) -> int:
        tensors = (*self.inputs.values(), *self.outputs.values())
        return self.rows * _OVERHEAD + sum(_size(values) for values in tensors if values is not None)


def lines(origin: Origin, call: Call) -> Iterator[bytes]:
    """One per row."""
    chosen = call.headers.get("x-model-variant", "")
    chosen = "" if chosen in _NO_VARIANT else chosen
    of_call = {
        **origin._asdict(),
        "decision_id": call.headers.get("x-decision-id", ""),
        "at": call.at,
        "variant": (origin.variant or chosen) if chosen else "",
        # Envoy copied a call of another variant, with the headers of the original.
        "mirrored": bool(chosen and origin.variant and chosen != origin.variant),
        "milliseconds": round(call.milliseconds, 3),
    }
    for row in range(call.rows):
        own = {"id": str(_new_id(call.at)), "row": row, "bytes": _row_bytes(call.inputs, row)}
        values = {"inputs": _row(call.inputs, row), "outputs": _row(call.outputs, row)}
        yield _json({**of_call, **own, **_within_bounds(values)}) + b"\n"


def inputs_of(request: Any, rows: int) -> dict[str, np.ndarray | None]:
    """Copies: what Triton lends is gone once the request is answered."""
    return {tensor.name(): _copied(tensor.as_numpy(), rows) for tensor in request.inputs()}


def _copied(values: np.ndarray, rows: int) -> np.ndarray | None:
    if len(values) != rows or _size(values) > rows * MOST_OF_ROW:
        return None
    return values.copy()


def _size(values: np.ndarray) -> int:
    """Bytes of what a caller sent."""
    return sum(map(len, values.flat)) if values.dtype == object else values.nbytes


def _row_bytes(columns: Mapping[str, np.ndarray | None], row: int) -> int:
    return sum(_size(values[row : row + 1]) for values in columns.values() if values is not None)


def _row(columns: Mapping[str, np.ndarray | None], row: int) -> dict[str, Any]:
    return {name: None if values is None else _plain(values[row]) for name, values in columns.items()}


def _plain(value: Any) -> Any:
    """A tensor of one element as that element; text without NUL, which Postgres does not take."""
    found = np.asarray(value)
    listed = found.reshape(-1)[0] if found.size == 1 else found.tolist()
    return _text(listed.item() if isinstance(listed, np.generic) else listed)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _within_bounds(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is too long is null, and named in `left_out`."""
    left_out = [name for name, row in values.items() if None in row.values() or len(_json(row)) > MOST_OF_ROW]
    kept = {name: None if name in left_out else row for name, row in values.items()}
    return {**kept, "left_out": left_out} if left_out else kept


def _json(value: Mapping[str, Any]) -> bytes:
    """A number that JSON does not have is null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), ensure_ascii=False)
    return text.encode()


def _new_id(at: float) -> uuid.UUID:
    """UUID version 7 (RFC 9562 section 5.7): in the order of time."""
    random = secrets.randbits(74)
    high, low = random >> 62, random & ((1 << 62) - 1)
    return uuid.UUID(int=int(at * 1000) << 80 | 7 << 76 | high << 64 | 2 << 62 | low)
