"""Triton's model repository on disk, as far as the catalogue describes what is in it.

A model that cannot be read is listed without a description: what exists is not hidden by a mistake in a file. The
directory is read again when it is asked for and `FRESH` seconds have passed, and of it only what changed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import text_format
from msgspec import Struct

from ext_authz.catalogue.cards import MOST_BYTES, card_of
from ext_authz.catalogue.entry import MODELS, Card, Entry, Tensor
from ext_authz.catalogue.origins import origins_of
from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.gen.tollgate.triton.v1 import model_config_pb2 as triton
from ext_authz.policy.names import MODEL, VERSION

log = logging.getLogger(__name__)

FRESH = 2.0
"""Seconds."""
MOST_MODELS = 10_000
"""What is beyond is not listed, and the log says so."""
_CONFIG, _README = "config.pbtxt", "README.md"
_PART = re.compile(rf"config\.pbtxt|README\.md|{VERSION}", re.ASCII)
_LONGEST_CONFIG = 262_144
_MOST_TENSORS, _MOST_DIMENSIONS = 64, 8
_FRAMEWORKS = {
    "sklearn": "scikit-learn",
    "onnx": "ONNX",
    "onnxruntime": "ONNX",
    "torch": "PyTorch",
    "pytorch": "PyTorch",
    "tensorflow": "TensorFlow",
    "r": "R",
}
"""By the parameter `framework` of a model, or by its backend."""

State = tuple[tuple[str, int], ...]


class _Read(Struct, frozen=True):
    state: State
    """Names and times of what was read."""
    entry: Entry


class Repository:
    """The models in one directory."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._read: dict[str, _Read] = {}
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def entries(self) -> list[Entry]:
        """By name, with all their versions.

        Raises:
            Unavailable: the directory cannot be read.
        """
        async with self._lock:
            if self._clock.now() >= self._until:
                try:
                    self._read = await asyncio.to_thread(_read, self._directory, self._read)
                except OSError as failure:
                    raise Unavailable("model repository", f"{self._directory}: {failure.strerror}") from failure
                self._until = self._clock.now() + FRESH
            return [each.entry for each in self._read.values()]


def _read(directory: Path, known: Mapping[str, _Read]) -> dict[str, _Read]:
    found: dict[str, _Read] = {}
    for folder in sorted(directory.iterdir()):
        if not re.fullmatch(MODEL, folder.name, re.ASCII) or not folder.is_dir():
            continue
        if len(found) == MOST_MODELS:
            log.error("catalogue: the model repository has more models than are listed", extra={"count": MOST_MODELS})
            break
        state = _state(folder)
        before = known.get(folder.name)
        found[folder.name] = before if before and before.state == state else _Read(state, _entry(folder, state))
    return found


def _state(folder: Path) -> State:
    """Versions, configuration and card, each with the time of its last change in nanoseconds."""
    try:
        parts = [each for each in sorted(folder.iterdir()) if _PART.fullmatch(each.name)]
        return tuple((each.name, each.stat().st_mtime_ns) for each in parts)
    except OSError as failure:
        log.warning("catalogue: a model is not described", extra={"model": folder.name, "detail": failure.strerror})
        return ()


def _entry(folder: Path, state: State) -> Entry:
    there = [name for name, _ in state if name not in (_CONFIG, _README)]
    at = datetime.fromtimestamp(max((time for _, time in state), default=0) // 10**9, UTC)
    config, card = _config(folder), _card(folder)
    if config is None:
        return Entry(collection=MODELS, id=folder.name, at=at, versions=tuple(sorted(there, key=int)), card=card)
    batched, versions = config.max_batch_size > 0, _served(config, there)
    said = config.parameters["framework"].string_value if "framework" in config.parameters else ""
    return Entry(
        collection=MODELS,
        id=folder.name,
        at=at,
        versions=versions,
        framework=_FRAMEWORKS.get(said or config.backend, ""),
        artifact=config.platform or config.backend,
        inputs=tuple(_tensor(each, batched=batched) for each in config.input[:_MOST_TENSORS]),
        outputs=tuple(_tensor(each, batched=batched) for each in config.output[:_MOST_TENSORS]),
        card=card,
        origins=tuple(origins_of(folder, versions)),
    )


def _config(folder: Path) -> triton.ModelConfig | None:
    """Empty where there is none: Triton completes it. None: it cannot be read; the log says why."""
    try:
        text = _text(folder / _CONFIG, _LONGEST_CONFIG)
        return text_format.Parse(text, triton.ModelConfig(), allow_unknown_field=True)
    except (OSError, ValueError, text_format.ParseError) as failure:
        log.warning("catalogue: a model is not described", extra={"model": folder.name, "detail": str(failure)[:200]})
        return None


def _card(folder: Path) -> Card:
    try:
        return card_of(_text(folder / _README, MOST_BYTES), folder.name)
    except (OSError, ValueError) as failure:
        log.warning("catalogue: a card is not read", extra={"model": folder.name, "detail": str(failure)[:200]})
        return Card()


def _text(file: Path, most: int) -> str:
    """Empty where there is none.

    Raises:
        ValueError: it is too long, or no UTF-8.
    """
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{file.name} has more than {most} bytes")
    return content.decode()


def _served(config: triton.ModelConfig, there: list[str]) -> tuple[str, ...]:
    """As the version policy says; without one the newest (Triton's model_repository.md)."""
    versions = sorted(there, key=int)
    policy = config.version_policy
    if policy.WhichOneof("policy_choice") == "all":
        return tuple(versions)
    if policy.WhichOneof("policy_choice") == "specific":
        return tuple(each for each in versions if int(each) in policy.specific.versions)
    return tuple(versions[-(policy.latest.num_versions or 1) :])


def _tensor(tensor: triton.ModelInput | triton.ModelOutput, *, batched: bool) -> Tensor:
    dims = [max(-1, size) for size in tensor.dims[:_MOST_DIMENSIONS]]
    shape = (-1, *dims) if batched else tuple(dims) or (1,)
    return Tensor(tensor.name[:255] or "unnamed", _data_type(tensor.data_type), shape, batched)


def _data_type(number: int) -> str:
    name = triton.DataType.Name(number).removeprefix("TYPE_").lower()  # type: ignore[arg-type]
    if name in ("bool", "string", "bf16", "invalid"):
        return "other"
    return name.replace("fp", "float")
