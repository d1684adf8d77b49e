"""The schema says what the loader does: its examples are taken, and every field is described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from ext_authz.policy.annotations import fields
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.base import Part
from ext_authz.policy.documents.schema import REFERENCE, policy_schema
from tests.fuzz.policies import ROOT, policy_files

SCHEMA = policy_schema()
SHIPPED = policy_files()
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
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "Tollgate policy"
    assert list(SCHEMA["properties"])[:3] == ["version", "include", "realm"]
    assert set(PolicyDocument.model_fields) <= set(SCHEMA["properties"])
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator.check_schema(policy_schema(included=True))


def test_a_pattern_has_a_message() -> None:
    def below(schema: object) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            yield schema
        for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from below(part)

    patterns = [part for part in below(SCHEMA) if "pattern" in part and len(part["pattern"]) > len(REFERENCE) + 20]
    assert len(patterns) > 15
    assert [part for part in patterns if "patternErrorMessage" not in part] == []


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_the_schema_takes_every_policy_that_is_shipped(file: Path) -> None:
    assert problems(file.read_text()) == []


def test_the_schema_takes_the_files_that_a_policy_includes() -> None:
    teams = sorted(ROOT.glob("docs/cookbook/17-file-per-team/teams/*.yaml"))
    assert teams
    for file in teams:
        assert problems(file.read_text(), policy_schema(included=True)) == []
        assert problems(file.read_text()) != []
    assert problems("version: 1\ninclude: [teams/*.yaml]\n") == []
    assert "'issuers' is a required property" in problems("version: 1\n")


@pytest.mark.parametrize(
    "mistake",
    [
        *("version: 2", "realms: x", "routes: []", "limits: [user]", "issuers: [{name: A}]", "flood: {rate: 9/moon}"),
        *("limits: {u: {key: [user], rate: 10/min}}", "limits: {u: {key: user, rate: 10/day}}", "explain: {keep: 5}"),
        *("limits: {U: {key: [user], rate: 1/day}}", "limits: {u: {key: [usr], rate: 1/day}}", "models: {a/b: {}}"),
        *("models: {a: {roles: x}}", "models: {a: {call: {role: x, group: y}}}", "models: {a: {permission: {}}}"),
        *("routes: [{name: a, path: /v2/models/*, methods: [GET]}]", "routes: [{name: a, operation: infr}]"),
        *("routes: [{name: a, path: '/:model', methods: [GET]}]", "routes: [{name: a, path: /a, methods: [get]}]"),
        *("routes: [{name: a, path: /.tollgate/x, methods: [GET]}]", "routes: [{name: a, grpc: a.B.C}]"),
        *("routes: [{name: a, operation: infer, limit: [u]}]", "routes: [{name: a, operation: infer, roles:}]"),
    ],
)
def test_the_schema_refuses_typical_mistakes(mistake: str) -> None:
    assert problems(mistake, policy_schema(included=True)) != []


def test_numbers_and_switches_may_come_from_the_environment() -> None:
    assert problems("client_address: {trusted_hops: '${HOPS}'}", policy_schema(included=True)) == []


SNIPPETS = [
    (name, offered["body"])
    for name, part in [("PolicyDocument", SCHEMA), *SCHEMA["$defs"].items()]
    for offered in part.get("defaultSnippets", ())
]


@pytest.mark.parametrize(("name", "body"), SNIPPETS)
def test_what_editors_insert_is_taken(name: str, body: object) -> None:
    text = re.sub(r"\$\{\d+:([^}]*)\}", r"\1", re.sub(r"\$\{\d+\|([^,]*)[^}]*\}", r"\1", json.dumps(body)))
    (part,) = (part for part in PARTS if part.__name__ == name)
    assert part.model_validate(json.loads(text))


def problems(text: str, schema: dict[str, Any] = SCHEMA) -> list[str]:
    """Of a file as editors see it: with references to the environment, and keys that are text."""
    validator = Draft202012Validator(schema)
    return [error.message for error in validator.iter_errors(_with_text_keys(yaml.safe_load(text)))]


def _with_text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _with_text_keys(below) for key, below in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value
