"""The JSON Schema of policies, for editors: what yaml-language-server and VS Code understand besides the standard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.includes import INCLUDE

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
"""A value, or a part of it, from the environment: an editor cannot know it."""
_PLAIN = ("integer", "number", "boolean")
_INCLUDE = {
    "title": "Include",
    "description": "Files that belong to the policy, relative to this one; patterns may have * and ?. "
    "Their content is added; a name that is defined twice is an error.",
    "type": "array",
    "items": {"type": "string"},
    "examples": [["teams/*.yaml"]],
}


_SNIPPETS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "PolicyDocument": (
        {
            "version": 1,
            "issuers": [
                {"name": "main", "issuer": "${1:https://id.example/realms/ml}", "audiences": ["${2:triton-gateway}"]}
            ],
            "limits": {"user": {"key": ["user"], "rate": "${3:10/minute}"}},
            "models": {"${4:sentiment}": {"roles": ["${5:infer}"]}},
            "routes": [{"name": "infer", "operation": "infer", "limits": ["user"]}],
        },
    ),
    "IssuerDocument": (
        {"name": "${1:main}", "issuer": "${2:https://id.example/realms/ml}", "audiences": ["${3:triton-gateway}"]},
    ),
    "LimitDocument": (
        {"key": ["${1:user}"], "rate": "${2:10/minute}"},
        {"key": ["${1:user}"], "plans": {"${2:gold}": "${3:100/minute}", "default": "${4:10/minute}"}},
    ),
    "ModelDocument": (
        {"roles": ["${1:infer}"]},
        {"call": {"any": [{"role": "${1:infer}"}, {"group": "${2:research}"}]}},
    ),
    "RouteDocument": (
        {
            "name": "${1:infer}",
            "operation": "${2|infer,generate,stream,metadata,health,repository,admin|}",
            "limits": ["${3:user}"],
        },
        {"name": "${1:files}", "path": "/files/{rest=**}", "methods": ["${2:GET}"]},
        {"name": "${1:live}", "grpc": "${2:inference.GRPCInferenceService/ServerLive}"},
    ),
    "ExperimentDocument": ({"model": "${1:sentiment}", "weights": {"${2:stable}": 90, "${3:canary}": 10}},),
}
"""What editors offer to insert, with `${1:example}` where the cursor stops."""


def policy_schema(*, included: bool = False) -> dict[str, Any]:
    """JSON Schema, draft 2020-12. `included`: of files that others include, which need not have everything."""
    schema = PolicyDocument.model_json_schema()
    for part in _parts(schema):
        _leave_null_out(part)
        _name_keys(part)
    for part in _parts(schema):
        _take_references(part)
        for field in part.get("properties", {}).values():
            if "description" in field:
                field["description"] = " ".join(field["description"].split())
    for name, bodies in _SNIPPETS.items():
        offered = [{"label": ", ".join(body), "body": body} for body in bodies]
        schema["$defs"].get(name, schema)["defaultSnippets"] = offered
    properties = {"version": schema["properties"].pop("version"), INCLUDE: _INCLUDE, **schema.pop("properties")}
    title = {"$schema": _DRAFT, "title": "Tollgate policy", "description": schema.pop("description")}
    # What a file lacks may be in those that it includes.
    whole = {"if": {"required": [INCLUDE]}, "else": {"required": schema.pop("required")}}
    whole["defaultSnippets"] = schema.pop("defaultSnippets")
    return title | {"properties": properties} | schema | title | ({} if included else whole)


def _parts(schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - JSON
    """Every schema inside of this one, from the inside out. Values of `examples` and `default` are not schemas."""
    if isinstance(schema, list):
        for item in schema:
            yield from _parts(item)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key not in ("examples", "default", "enum", "const", "propertyNames"):
                yield from _parts(value)
        yield schema


def _take_references(part: dict[str, Any]) -> None:
    """Where a value is expected, a reference to the environment is accepted too."""
    if isinstance(pattern := part.get("pattern"), str):
        part["pattern"] = f"{REFERENCE}|{pattern}"
        if message := part.get("patternErrorMessage"):
            part["errorMessage"] = message  # where the value is not even text
    elif part.get("type") in _PLAIN or (part.get("type") == "string" and ("enum" in part or "const" in part)):
        value = {
            key: part.pop(key) for key in tuple(part) if key not in ("title", "description", "examples", "default")
        }
        part["anyOf"] = [value, {"type": "string", "pattern": REFERENCE}]


def _leave_null_out(part: dict[str, Any]) -> None:
    """A key without a value says nothing, and an alternative keeps editors from saying what is wrong with the other."""
    if {"type": "null"} in part.get("anyOf", ()):
        members = [member for member in part.pop("anyOf") if member != {"type": "null"}]
        part.update(members[0] if len(members) == 1 else {"anyOf": members})
        part.pop("default", None)


def _name_keys(part: dict[str, Any]) -> None:
    """The keys of a mapping, with a message about a wrong one."""
    if "patternProperties" in part:
        ((pattern, part["additionalProperties"]),) = part.pop("patternProperties").items()
        part["propertyNames"] = {"title": "name", "pattern": pattern, **part.get("propertyNames", {})}
