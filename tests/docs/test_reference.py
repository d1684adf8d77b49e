"""docs/policy-reference.md is what the documents say, and every example in it is taken by the loader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ext_authz.policy.documents.base import Part
from ext_authz.policy.includes import INCLUDE
from ext_authz.policy.load import load_policy
from ext_authz.policy.validation import fields
from ext_authz.policytool.reference import main, reference
from ext_authz.policytool.reference_examples import Example, Place, embedded
from tests.fuzz.policies import ENVIRON, ROOT

PAGE = ROOT / "docs" / "policy-reference.md"
_ROW = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`]*)`")


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


def test_the_page_is_what_is_generated() -> None:
    assert PAGE.read_text() == reference(), "run make gen"


def test_what_has_drifted_is_told(tmp_path: Path) -> None:
    page = tmp_path / "reference.md"
    page.write_text(reference() + "More.\n")
    drifted = CliRunner().invoke(main, [str(page), "--check"])
    assert drifted.exit_code == 1
    assert "run make gen" in drifted.output
    assert CliRunner().invoke(main, [str(page)]).exit_code == 0
    assert CliRunner().invoke(main, [str(page), "--check"]).exit_code == 0


def test_every_field_of_every_part_is_there() -> None:
    said = {(place, cells[0].strip("`")) for place, cells in rows()}
    assert reachable(Place.POLICY.part) == {place.part for place in Place}
    assert said == {(place, name) for place in Place for name in fields(place.part)} | {(Place.POLICY, INCLUDE)}


def reachable(part: type[Part]) -> set[type[Part]]:
    """The parts that a policy can hold, from the JSON Schema, which is made by pydantic and not by us."""
    by_name = {one.__name__: one for one in Part.__subclasses__()}
    return {part} | {by_name[name] for name in part.model_json_schema()["$defs"]}


@pytest.mark.parametrize(("place", "cells"), [pytest.param(*row, id=f"{row[0].title}-{row[1][0]}") for row in rows()])
def test_every_field_says_what_it_takes_and_means(place: Place, cells: list[str]) -> None:
    key, quota_requests, default, meaning, _ = cells
    assert quota_requests, key
    assert meaning.endswith("."), key
    info = fields(place.part).get(key.strip("`"))
    assert (default == "*required*") == (info is not None and info.is_required())


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
