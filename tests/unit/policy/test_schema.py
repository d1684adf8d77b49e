"""The schema says what the loader does: its examples are taken, and every field is described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from ext_authz.policy.documents import PolicyDocument, policy_schema
from ext_authz.policy.documents.base import Part
from ext_authz.policy.validation import fields
from tests.unit.policy.test_load import DEMO

PARTS = [model for model in Part.__subclasses__() if model.__module__.startswith("ext_authz.policy.documents")]
FIELDS = [(model, name, info) for model in PARTS for name, info in fields(model).items()]
EXAMPLES = [(model, name, example) for model, name, info in FIELDS for example in info.examples or ()]


def test_the_parts_are_found() -> None:
    assert len({model for model, *_ in FIELDS}) >= 15
    assert len(EXAMPLES) > 40


@pytest.mark.parametrize(("model", "name", "info"), FIELDS, ids=lambda value: getattr(value, "__name__", None))
def test_every_field_is_described(model: type[BaseModel], name: str, info: FieldInfo) -> None:
    assert info.description, (model, name)
    assert info.description.endswith(".")


@pytest.mark.parametrize(("model", "name", "example"), EXAMPLES, ids=lambda value: getattr(value, "__name__", None))
def test_every_example_is_taken(model: type[BaseModel], name: str, example: object) -> None:
    if isinstance(example, str) and "${" in example:
        return
    info = fields(model)[name]
    TypeAdapter(info.rebuild_annotation()).validate_python(example)


def test_the_schema_has_a_name_and_every_part_of_the_language() -> None:
    schema = policy_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "Tollgate policy"
    assert list(schema["properties"])[:3] == ["version", "include", "realm"]
    assert set(PolicyDocument.model_fields) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["version", "issuers", "routes"]


def test_a_permission_has_exactly_one_form() -> None:
    permission = policy_schema()["$defs"]["PermissionDocument"]
    assert (permission["minProperties"], permission["maxProperties"]) == (1, 1)
    assert "not" in permission["properties"]


def test_the_schema_takes_the_demo_policy_with_its_references() -> None:
    assert list(problems(yaml.safe_load(DEMO.read_text()), policy_schema(), policy_schema())) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", 2), ("realms", "x"), ("routes", []), ("issuers", [{"name": "A"}]), ("flood", {"rate": "9/moon"})],
)
def test_the_schema_refuses_what_the_loader_refuses(key: str, value: object) -> None:
    whole = yaml.safe_load(DEMO.read_text()) | {key: value}
    assert list(problems(whole, policy_schema(), policy_schema()))


def test_numbers_and_switches_may_come_from_the_environment() -> None:
    whole = yaml.safe_load(DEMO.read_text()) | {"client_address": {"trusted_hops": "${HOPS}"}}
    assert list(problems(whole, policy_schema(), policy_schema())) == []


def problems(value: object, schema: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    """The part of JSON Schema that ours uses."""
    if "$ref" in schema:
        yield from problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema and not any(not list(problems(value, one, root)) for one in schema["anyOf"]):
        yield f"{value!r} fits none"
    if "type" in schema and not _is_of_type(value, schema["type"]):
        yield f"{value!r} is no {schema['type']}"
    elif isinstance(value, dict):
        yield from _problems_of_mapping(value, schema, root)
    elif isinstance(value, list):
        yield from ["too few"] * (len(value) < schema.get("minItems", 0))
        for item in value:
            yield from problems(item, schema.get("items", {}), root)
    else:
        yield from _problems_of_scalar(value, schema)


def _is_of_type(value: object, kind: str) -> bool:
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if kind in types:
        return isinstance(value, types[kind])
    return isinstance(value, int | float) and not isinstance(value, bool)


def _problems_of_mapping(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    known = schema.get("properties", {})
    yield from (f"{name} is missing" for name in schema.get("required", ()) if name not in value)
    if len(value) > schema.get("maxProperties", 99):
        yield "too many keys"
    for key, below in value.items():
        if key in known:
            yield from problems(below, known[key], root)
        elif schema.get("additionalProperties") is False:
            yield f"{key} is unknown"
        elif isinstance(schema.get("additionalProperties"), dict):
            yield from problems(below, schema["additionalProperties"], root)
        for pattern, of_pattern in schema.get("patternProperties", {}).items():
            if re.search(pattern, key):
                yield from problems(below, of_pattern, root)


def _problems_of_scalar(value: object, schema: dict[str, Any]) -> Iterator[str]:
    if "const" in schema and value != schema["const"]:
        yield f"{value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{value!r} is not one of {schema['enum']}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        yield f"{value!r} does not have the form {schema['pattern']}"
