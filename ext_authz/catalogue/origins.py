"""Which version of MLflow's registry each version of a served model is, by the files that its promotion left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ext_authz.catalogue.entry import Origin
from ext_authz.identity.identity import is_text

log = logging.getLogger(__name__)

_PROMOTED, _SUMS, _SIGNATURE = "promoted.json", "SHA256SUMS", "SHA256SUMS.sig"
_LONGEST = 65_536
"""Bytes of each."""
_MOST_ALIASES = 20


class _Promoted(Struct):
    registered: str
    run: str
    aliases: tuple[str, ...] = ()


def origins_of(model: Path, versions: Iterable[str]) -> Iterator[Origin]:
    """What cannot be read has no origin, and the log says why."""
    for version in versions:
        folder = model / version
        if not (folder / _PROMOTED).is_file():
            continue
        try:
            yield _origin(folder)
        except (OSError, ValueError, msgspec.DecodeError) as failure:
            extra = {"model": model.name, "detail": f"version {version}: {failure}"[:200]}
            log.warning("catalogue: an origin is not read", extra=extra)


def _origin(folder: Path) -> Origin:
    """Raises OSError, ValueError, msgspec.DecodeError."""
    said = msgspec.json.decode(_content(folder / _PROMOTED), type=_Promoted)
    if len(said.aliases) > _MOST_ALIASES or not all(map(is_text, (said.registered, said.run, *said.aliases))):
        raise ValueError(f"{_PROMOTED} names no version of a registry")
    return Origin(
        version=folder.name,
        registered=said.registered,
        run=said.run,
        checksum=hashlib.sha256(_content(folder / _SUMS)).hexdigest(),
        aliases=said.aliases,
        signed=(folder / _SIGNATURE).is_file(),
    )


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(_LONGEST + 1)
    if len(content) > _LONGEST:
        raise ValueError(f"{file.name} has more than {_LONGEST} bytes")
    return content
