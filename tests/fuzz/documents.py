"""Policies made from the JSON Schema: mostly of the right shape, so that what compiles them is reached; often wrong."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from ext_authz.policy.documents.schema import policy_schema
from tests.fuzz.choices import Choices

_SCHEMA = policy_schema() | policy_schema()["else"]
_DEEPEST = 9
_NAMES = ("a", "b", "user", "gold", "default", "stable", "canary", "sentiment", "s*", "*t", "*", "2", "tenant", "x-a")
_WORDS = (
    *_NAMES,
    *("1/minute", "10/second", "3/month", "30s", "0s", "1h", "claim:tenant", "claim:x", "${TOLLGATE_ISSUER}", "${NO}"),
    *("/v2/models/{model}/infer", "/{rest=**}", "/a/{b}", "/", "/v2/models/{model}", "/files/{a}/{rest=**}"),
    *("inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/*", "a.B/C", "a.example"),
    *("*.example", "https://id.example/r", "realm_access.roles", r"a\.b", "urn:x:", "tollgate"),
    *("true", "identity.subject == 'a'", "time.hour > 8", "identity.claims.tenant == request.headers['x']"),
    *("int(request.headers['n'])", "identity.roles.exists(r, r == 'a')", "1 + ", "request.path.matches('(a+)+')"),
)
_NUMBERS = (1, 0, 2, 10, -1, 16, 17, 90, 100, 101, 1000, 10**6, 10**6 + 1, 2**63, 0.5, 1.0, 1e308)
_ODD: tuple[Any, ...] = (None, "", 0, [], {}, True, [[]], {"a": None})
_ALTERNATIVES = (
    ("path", "grpc", "operation"),
    ("rate", "plans"),
    ("header", "cel"),
    ("claim", "roles"),
    ("call", "roles"),
    ("permission", "roles"),
    ("claims", "roles_client"),
)
"""Of these, in one mapping, one."""
_TOGETHER = {"path": "methods", "claim": "values"}


def document(choices: Choices) -> dict[str, Any]:
    """Everything that is required, and of the rest what the bytes say."""
    whole: dict[str, Any] = _mapping(_SCHEMA, choices, 0)
    return whole


def _value(schema: dict[str, Any], choices: Choices, depth: int) -> Any:  # noqa: ANN401 - JSON
    if choices.one_in(200):
        return choices.of(_ODD)
    if "$ref" in schema:
        return _value(_SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], choices, depth)
    if schema.get("examples") and choices.below(2):
        return choices.of(schema["examples"])
    if "anyOf" in schema:
        return _value(choices.of(schema["anyOf"]) if choices.one_in(8) else schema["anyOf"][0], choices, depth)
    if "const" in schema:
        return schema["const"]
    return choices.of(schema["enum"]) if "enum" in schema else _of_type(schema, choices, depth)


def _of_type(schema: dict[str, Any], choices: Choices, depth: int) -> Any:  # noqa: ANN401 - JSON
    match schema.get("type"):
        case "object":
            return _mapping(schema, choices, depth + 1)
        case "array":
            size = max(schema.get("minItems", 0), choices.below(3) if depth < _DEEPEST else 0)
            return [_value(schema.get("items", {}), choices, depth + 1) for _ in range(size)]
        case "boolean":
            return bool(choices.below(2))
        case "integer" | "number" as kind:
            return _number(schema, choices, whole=kind == "integer")
    return _text(schema.get("pattern", ""), choices)


def _number(schema: dict[str, Any], choices: Choices, *, whole: bool) -> float:
    least, most = schema.get("minimum", 0), schema.get("maximum", 10**6)
    good = [number for number in _NUMBERS if least <= number <= most and (isinstance(number, int) or not whole)]
    return choices.of(_NUMBERS if choices.one_in(20) else good)


def _text(pattern: str, choices: Choices) -> str:
    if choices.one_in(30):
        return choices.text(12)
    return choices.of(_WORDS if choices.one_in(30) else _fitting(pattern))


@cache
def _fitting(pattern: str) -> tuple[str, ...]:
    return tuple(word for word in _WORDS if "$" not in word and re.search(pattern, word)) or _WORDS


def _mapping(schema: dict[str, Any], choices: Choices, depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    if schema.get("maxProperties") == 1:
        name = choices.of(list(properties)) if depth < _DEEPEST else "role"
        return {name: _value(properties[name], choices, depth)}
    chosen = _chosen(schema, choices, often=4 if depth < _DEEPEST else 1000)
    found = {name: _value(properties[name], choices, depth) for name in chosen}
    if isinstance(below := schema.get("additionalProperties"), dict):
        for _ in range(max(schema.get("minProperties", 0), choices.below(3))):
            found[_text(schema["propertyNames"]["pattern"], choices)] = _value(below, choices, depth)
    if choices.one_in(200):
        found[choices.of(_NAMES)] = choices.text(4)
    return found


def _chosen(schema: dict[str, Any], choices: Choices, *, often: int) -> list[str]:
    properties, required = schema.get("properties", {}), schema.get("required", ())
    chosen = {name for name in properties if name in required or (name != "include" and choices.one_in(often))}
    if not choices.one_in(40):
        for names in _ALTERNATIVES:
            if properties.keys() >= set(names):
                chosen = chosen - set(names) | {choices.of(names)}
        for name, other in _TOGETHER.items():
            if other in properties:
                chosen = chosen | {other} if name in chosen else chosen - {other}
    return [name for name in properties if name in chosen]
