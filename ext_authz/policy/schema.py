"""The JSON Schema of `policy.yaml`, from which editors complete and check, and the reference is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ext_authz.policy.document.policy import PolicyDocument
from ext_authz.policy.includes import INCLUDE

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
"""A value, or a part of it, from the environment: what it will be is not known to an editor."""
_PLAIN = ("integer", "number", "boolean")
_INCLUDE = {
    "title": "Include",
    "description": "Files that belong to the policy, relative to this one; patterns take * and ?. "
    "What they hold is added: nothing is said twice.",
    "type": "array",
    "items": {"type": "string"},
    "examples": [["teams/*.yaml"]],
}


def policy_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    schema = PolicyDocument.model_json_schema()
    for part in _parts(schema):
        _take_references(part)
    properties = {"version": schema["properties"].pop("version"), INCLUDE: _INCLUDE, **schema.pop("properties")}
    title = {"$schema": _DRAFT, "title": "Tollgate policy", "description": schema.pop("description")}
    return title | {"properties": properties} | schema | title


def _parts(schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - JSON
    """Every schema inside of this one, from the inside out. Values of `examples` and `default` are none."""
    if isinstance(schema, list):
        for item in schema:
            yield from _parts(item)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key not in ("examples", "default", "enum", "const"):
                yield from _parts(value)
        yield schema


def _take_references(part: dict[str, Any]) -> None:
    """Where a value is expected, a reference to the environment is one too."""
    if isinstance(pattern := part.get("pattern"), str):
        part["pattern"] = f"{_REFERENCE}|{pattern}"
    elif part.get("type") in _PLAIN or (part.get("type") == "string" and ("enum" in part or "const" in part)):
        value = {
            key: part.pop(key) for key in tuple(part) if key not in ("title", "description", "examples", "default")
        }
        part["anyOf"] = [value, {"type": "string", "pattern": _REFERENCE}]
