"""Who made each part, and under which licence: read from the wheels, and from `parts.toml` where they do not say it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.utils import parse_wheel_filename

from bundle.locked import ROOT, CannotBundle

PARTS = ROOT / "bundle" / "parts.toml"
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_TEXT = re.compile(
    r"(?:.*/)?(?:[^/]+\.dist-info/licenses/.+|(?:licen[cs]e|copying|notice|copyright|third-?party)[^/]*)", re.IGNORECASE
)
_CODE = (".py", ".pyc", ".so", ".h", ".json")
_LIBRARY = re.compile(r"[^/]+\.libs/([^/]+)")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A wheel, or a program in one."""

    name: str
    version: str
    """Of a program, the wheel that brings it."""
    licence: str
    """As its makers write it; an SPDX expression if they do."""
    texts: Mapping[str, bytes]
    """By a path of its own."""
    digest: str = ""
    """SHA-256 of the wheel; empty for a program."""
    libraries: Sequence[str] = field(default_factory=tuple)
    """Shared objects of others that the wheel brings."""


def parts(wheels: Iterable[Path], declared: Path = PARTS) -> list[Part]:
    """In the order of their names.

    Raises:
        CannotBundle: a part has no licence, or no text of it, or is in another version than `declared` describes.
    """
    said = tomllib.loads(declared.read_text())
    files = {_pin(path): path for path in wheels}
    for each in (*said.get("text", ()), *said.get("program", ())):
        if each["wheel"] not in files:
            raise CannotBundle(
                f"{declared.name} describes {each['wheel']}, which is not what is locked: look what the wheel brings "
                "now, and write its version"
            )
    extra = {each["wheel"]: each["file"] for each in said.get("text", ())}
    found = [_of_wheel(pin, path, extra.get(pin)) for pin, path in files.items()]
    found += [_of_program(each) for each in said.get("program", ())]
    return sorted(found, key=lambda part: (part.name.lower(), part.version))


def _pin(path: Path) -> str:
    name, version, _, _ = parse_wheel_filename(path.name)
    return f"{name}=={version}"


def _of_wheel(pin: str, path: Path, declared_text: str | None) -> Part:
    name, _, version = pin.partition("==")
    with ZipFile(path) as wheel:
        metadata = message_from_bytes(wheel.read(next(filter(_METADATA.fullmatch, wheel.namelist()))))
        texts = {entry: wheel.read(entry) for entry in wheel.namelist() if is_text(entry)}
        libraries = sorted(found[1] for entry in wheel.namelist() if (found := _LIBRARY.fullmatch(entry)))
    if declared_text:
        texts[Path(declared_text).name] = (ROOT / declared_text).read_bytes()
    licence = licence_of(metadata)
    if not licence or not texts:
        raise CannotBundle(
            f"{path.name} has no {'text of its licence' if licence else 'licence in its metadata'}: "
            f"find out which it is and describe it in bundle/parts.toml, or do without it"
        )
    digest = sha256(path.read_bytes()).hexdigest()
    return Part(name=name, version=version, licence=licence, texts=texts, digest=digest, libraries=libraries)


def is_text(name: str) -> bool:
    """Of a licence: a file of a wheel, by its path there."""
    return _TEXT.fullmatch(name) is not None and not name.endswith(("/", *_CODE))


def licence_of(metadata: Message) -> str:
    """By the newest of the fields that is one line; some have the whole text in `License`."""
    if expression := metadata["License-Expression"]:
        return str(expression)
    if (written := str(metadata["License"] or "").strip()) and "\n" not in written:
        return written
    found = [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    return ", ".join(line.rpartition(" :: ")[2] for line in found)


def _of_program(declared: Mapping[str, str]) -> Part:
    name, _, version = declared["wheel"].partition("==")
    text = ROOT / declared["file"]
    return Part(
        name=declared["name"],
        version=f"in {name} {version}",
        licence=declared["licence"],
        texts={text.name: text.read_bytes()},
    )


def listed(found: Iterable[Part]) -> str:
    """A table in Markdown."""
    rows = ["# Licences", "", "| part | version | licence | texts | libraries of others |", "|---|---|---|---|---|"]
    for part in found:
        texts = f"[{len(part.texts)}](licences/{folder(part)}/)"
        rows.append(f"| {part.name} | {part.version} | {part.licence} | {texts} | {', '.join(part.libraries)} |")
    return "\n".join([*rows, ""])


def folder(part: Part) -> str:
    """Where its texts are, below `licences/`."""
    return re.sub(r"[^\w.-]+", "-", f"{part.name}-{part.version}")


def bill_of_materials(found: Iterable[Part], version: str) -> str:
    """CycloneDX 1.6 in JSON, without serial number and time: the same parts are the same bytes."""
    tollgate = {"type": "application", "name": "tollgate", "version": version}
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": tollgate}}
    return json.dumps({**document, "components": [_component(part) for part in found]}, indent=1) + "\n"


def _component(part: Part) -> dict[str, Any]:
    licences = [{"license": {"name": part.licence}}]
    if not part.digest:
        return {"type": "application", "name": part.name, "description": part.version, "licenses": licences}
    address = f"pkg:pypi/{part.name}@{part.version}"
    known = {"bom-ref": address, "purl": address, "hashes": [{"alg": "SHA-256", "content": part.digest}]}
    inside = [{"type": "library", "name": library} for library in part.libraries]
    return {"type": "library", "name": part.name, "version": part.version, "licenses": licences, **known} | (
        {"components": inside} if inside else {}
    )
