"""Files of the prediction log, as models write them."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from pathlib import Path
from typing import Any

_NUMBERS = itertools.count(time.time_ns())
_RANDOM = 1 << 61


def new_id(at: float) -> str:
    """UUID version 7 of this time."""
    return str(uuid.UUID(int=int(abs(at) * 1000) << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int % _RANDOM))


def line(decision_id: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """One row of `sentiment`, answered now."""
    at = fields.pop("at", time.time())
    usual = {"id": new_id(at), "decision_id": decision_id, "row": 0, "at": at, "model": "sentiment", "version": "1"}
    usual |= {"variant": "", "mirrored": False, "inputs": {"text": "good"}, "outputs": {"label": "positive"}}
    return {**usual, "milliseconds": 1.5, "bytes": 4, "host": "pod-1", **fields}


def write(directory: Path, *lines: dict[str, Any] | bytes, model: str = "sentiment") -> Path:
    """A finished file."""
    texts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines]
    path = directory / f"{next(_NUMBERS):020d}@{model}@1-ab@{len(lines)}.jsonl"
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def left(directory: Path) -> list[str]:
    """What nobody has taken."""
    return sorted(path.name for path in directory.iterdir())
