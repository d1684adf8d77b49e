"""docs/policy-reference.md is what the documents say, and every example in it is taken by the loader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.build.policy_examples import WHOLE, Example, Place
from ext_authz.policy.annotations import fields
from ext_authz.policy.documents.base import Part
from ext_authz.policy.includes import INCLUDE
from ext_authz.policy.load import load_policy
from tests.fuzz.policies import ENVIRON, ROOT

PAGE = ROOT / "docs" / "policy-reference.md"
_ROW = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`]*)`")
PATHS: Mapping[Place, tuple[str | int, ...]] = {
    Place.POLICY: (),
    Place.RESOURCE: ("resource",),
    Place.CORS: ("cors",),
    Place.TOKENS: ("tokens",),
    Place.ISSUER: ("issuers", 0),
    Place.CLAIMS: ("issuers", 0, "claims"),
    Place.DPOP: ("issuers", 0, "dpop"),
    Place.INTROSPECTION: ("issuers", 0, "introspection"),
    Place.ASAP: ("issuers", 0, "asap"),
    Place.GITLAB: ("issuers", 0, "gitlab"),
    Place.GITLAB_RIGHTS: ("issuers", 0, "gitlab", "rights"),
    Place.GITLAB_PROJECT: ("issuers", 0, "gitlab", "rights", "projects", "team/forecast"),
    Place.GITLAB_LEVELS: ("issuers", 0, "gitlab", "rights", "levels"),
    Place.PLAN: ("plans", "gold"),
    Place.LIMIT: ("limits", "user-minute"),
    Place.COST: ("limits", "user-minute", "cost"),
    Place.FLOOD: ("flood",),
    Place.CLIENT_ADDRESS: ("client_address",),
    Place.MODEL: ("models", "sentiment"),
    Place.VERSION: ("models", "sentiment", "versions", "2"),
    Place.PREDICTIONS: ("models", "sentiment", "predictions"),
    Place.PERMISSION: ("routes", 0, "permission"),
    Place.ROUTE: ("routes", 0),
    Place.EXPERIMENT: ("experiments", "sentiment-v2"),
    Place.OVERRIDE: ("experiments", "sentiment-v2", "override"),
    Place.MIRROR: ("experiments", "sentiment-v2", "mirror"),
    Place.FAILURE: ("failure",),
    Place.RESPONSES: ("responses",),
    Place.EXPLAIN: ("explain",),
}
"""Where in the small policy of the page the parts stand."""

BESIDE: Mapping[Place, Example] = {
    Place.DPOP: {"cnf": "verify"},
    Place.ASAP: {"issuer": "team/web"},
}
"""What has to stand beside a part."""
HIDDEN: Mapping[Place, Example] = {
    Place.INTROSPECTION: {"client_id": "gateway", "client_secret": "secret", "lightweight": True},
    Place.ASAP: {"repositories": ["https://keys.example"]},
    Place.GITLAB: {"applications": ["1"]},
    Place.GITLAB_RIGHTS: {"projects": {"team/other": {}}},
    Place.RESOURCE: {"url": "https://models.example.com"},
    Place.CORS: {"origins": ["https://app.example.com"]},
    Place.TOKENS: {"issuer": "https://models.example.com/tollgate", "audiences": ["triton-gateway"]},
    Place.PLAN: {"roles": ["gold"]},
    Place.COST: {"header": "x-batch-rows", "max": 1000},
    Place.FLOOD: {"rate": "50/second"},
    Place.VERSION: {"call": {"role": "tester"}},
    Place.PREDICTIONS: {"readers": {"role": "sentiment-owner"}},
    Place.MIRROR: {"to": "canary"},
    Place.EXPERIMENT: {"model": "sentiment", "weights": {"stable": 90, "canary": 10}},
    Place.OVERRIDE: {"header": "x-experiment", "values": {"canary": "canary"}, "permission": {"role": "tester"}},
}
"""What a part needs to be one, where the example says something else."""

INSTEAD = {
    "asap": ("claims",),
    "plans": ("rate",),
    "cel": ("header",),
    "claim": ("roles",),
    "values": ("roles",),
    "call": ("roles",),
    "roles": ("call",),
    "path": ("operation",),
    "grpc": ("operation",),
    "public": ("limits",),
}
"""Which fields an example replaces."""


@cache
def rows() -> tuple[tuple[Place, list[str]], ...]:
    """Section and cells of every key, as a reader of the page sees them."""
    places = {place.title: place for place in Place}
    found, place = [], Place.POLICY
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            place = places.get(line[3:], place)
        elif line.startswith("| `"):
            found.append((place, [cell.strip().replace(r"\|", "|") for cell in _ROW.split(line)[1:-1]]))
    return tuple(found)


def examples() -> Iterator[Any]:
    for place, (key, *_, shown) in rows():
        for number, example in enumerate(shown.split("<br>")):
            yield pytest.param(place, example, id=f"{place.title}-{key.strip('`')}-{number}")


def read(example: str) -> Example:
    """The codes of one example are fields that stand together."""
    together: Example = {}
    for code in _CODE.findall(example):
        together |= yaml.safe_load(code)
    return together


def test_every_field_of_every_part_is_there() -> None:
    said = {(place, cells[0].strip("`")) for place, cells in rows()}
    assert reachable(Place.POLICY.part) == {place.part for place in Place}
    assert said == {(place, name) for place in Place for name in fields(place.part)} | {(Place.POLICY, INCLUDE)}


def reachable(part: type[Part]) -> set[type[Part]]:
    """The parts that a policy can hold, from the JSON Schema, which is made by pydantic and not by us."""
    # A price list (billing) is made of parts too, some with the names of these.
    by_name = {one.__name__: one for one in Part.__subclasses__() if one.__module__.startswith("ext_authz.policy.")}
    return {part} | {by_name[name] for name in part.model_json_schema()["$defs"]}


@pytest.mark.parametrize(("place", "cells"), [pytest.param(*row, id=f"{row[0].title}-{row[1][0]}") for row in rows()])
def test_every_field_has_a_type_and_a_description(place: Place, cells: list[str]) -> None:
    key, quota_requests, default, meaning, _ = cells
    assert quota_requests, key
    assert meaning.endswith("."), key
    info = fields(place.part).get(key.strip("`"))
    assert (default == "*required*") == (info is not None and info.is_required())


def embedded(place: Place, example: Example) -> dict[str, Any]:
    """The small policy, with the example in its place."""
    whole = deepcopy(dict(WHOLE))
    at: Any = whole
    for step, above in zip(PATHS[place], above_each(place), strict=True):
        if isinstance(at, dict) and step not in at:
            at[step] = deepcopy(dict(HIDDEN.get(above, {})))
            at |= BESIDE.get(above, {})
            for replaced in INSTEAD.get(str(step), ()):
                at.pop(replaced, None)
        at = at[step]
    for replaced in (other for name in example for other in INSTEAD.get(name, ())):
        at.pop(replaced, None)
    at |= example
    return whole


def above_each(place: Place) -> Iterator[Place]:
    """For every step of the path the part that stands there."""
    by_path = {path: other for other, path in PATHS.items()}
    for length in range(1, len(PATHS[place]) + 1):
        yield by_path.get(PATHS[place][:length], Place.POLICY)


@pytest.mark.parametrize(("place", "example"), list(examples()))
def test_every_example_is_taken(place: Place, example: str, tmp_path: Path) -> None:
    said = read(example)
    if INCLUDE in said:
        (tmp_path / "teams").mkdir()
        (tmp_path / "teams" / "vision.yaml").write_text("models: {vision-*: {roles: [vision]}}\n")
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps(embedded(place, said)))
    assert load_policy(policy, ENVIRON).hash


def test_the_small_policy_of_the_page_is_taken(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    policy = tmp_path / "policy.yaml"
    policy.write_text(block)
    assert [route.name for route in load_policy(policy, {}).routes] == ["infer"]


def test_links_lead_to_sections() -> None:
    text = PAGE.read_text()
    sections = {
        re.sub(r"[^a-z_ -]", "", line[3:].lower()).replace(" ", "-") for line in re.findall("^## .*", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= sections
