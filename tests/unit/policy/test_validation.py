"""Each thing that pydantic can have against a policy, in words, at its place, and without a secret."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ext_authz.policy.annotations import fields
from ext_authz.policy.documents.base import Part, Shape
from ext_authz.policy.faults import MAX_FAULTS, Fault, rendered
from ext_authz.policy.source import Source, read_source
from ext_authz.policy.validation import faults_of
from ext_authz.policytool.cases import CasesDocument
from tests.unit.policy.reading import read, source_of, written

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]+$"), Shape("lower-case letters only")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fixed(Strict):
    kind: Literal["fixed", "flat"]
    rate: int


class Frozen(Fixed):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Burst(Strict):
    kind: Literal["burst"]
    burst: Annotated[int, Field(ge=1)]
    fixed: dict[str, int] = {}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Document(Strict):
    version: Literal[1] = 1
    name: Name | None = None
    wait: Annotated[float, Field(gt=0, lt=9)] = 1
    count: Annotated[int, Field(le=9)] = 2
    code: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    flag: bool = False
    colour: Colour = Colour.RED
    names: Annotated[tuple[Name, ...] | None, Field(max_length=2)] = None
    pattern: Annotated[str, StringConstraints(pattern="^[a-z]+$")] = "a"
    by_name: dict[Name, Fixed] = {}
    cost: Annotated[int, Field(ge=1)] | Burst = 1
    caller: Name | Burst | None = None
    free: Any = None
    alias: int = Field(0, alias="otherwise")
    must: str = "x"
    filled: Annotated[frozenset[Frozen], Field(min_length=1)] | None = None

    @field_validator("must")
    @classmethod
    def _must(cls, value: str) -> str:
        if value == "custom":
            raise PydanticCustomError("too_custom", "It is custom.")
        if value == "assert":
            raise AssertionError("Asserted otherwise.")
        if value != "x":
            raise ValueError(f"Must be x, and {value.upper()} is not")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Document:
        if self.flag and self.free:
            raise ValueError(f"flag goes without {self.free}")
        return self


def unions(annotation: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - a type hint is any object
    """The members of every union in a type hint, without None."""
    members = tuple(member for member in get_args(annotation) if member is not NoneType)
    if get_origin(annotation) in (Union, UnionType) and len(members) > 1:
        yield members
    for member in () if get_origin(annotation) is Literal else members:
        yield from unions(member)


MODELS = [model for model in Part.__subclasses__() if model.__module__.startswith("ext_authz.")]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_union_is_of_a_scalar_and_a_mapping(model: type[Part]) -> None:
    """`validation.py` distinguishes the errors of the members by that; the files of policy tests are read by it too."""
    assert CasesDocument in MODELS
    for info in fields(model).values():
        for members in unions(info.annotation):
            assert sum(isinstance(member, type) and issubclass(member, BaseModel) for member in members) == 1
            assert len(members) == 2


def checked(source: Source) -> list[Fault]:
    with pytest.raises(ValidationError) as wrong:
        Document.model_validate(source.data)
    return faults_of(wrong.value, source, Document)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("versoin: 1", "1:1: error: unknown key 'versoin' (versoin); did you mean 'version'?"),
        ("otherwis: 1", "1:1: error: unknown key 'otherwis' (otherwis); did you mean 'otherwise'?"),
        ("by_name: {a: {kind: flat, rate: 1, zz: 1}}", "unknown key 'zz' (by_name.a.zz); known here: kind, rate"),
        ("by_name:\n  a:\n    kind: flat", "3:5: error: 'rate' is missing (by_name.a.rate)"),
        ("version: 2", "1:10: error: must be 1, not 2 (version)"),
        ("version: [1]", "must be 1, not a list (version)"),
        ("name: A1", "1:7: error: 'A1' does not have the right form (name); write lower-case letters only"),
        ("pattern: A1", "'A1' does not have the right form (pattern); the pattern is ^[a-z]+$"),
        ("name: 12", "must be text, not a number (name); write it in quotes"),
        ("must: true", "must be text, not true or false (must); write it in quotes"),
        ("must:", "1:6: error: must be text, not an empty value (must)"),
        ("must: [a]", "must be text, not a list (must)"),
        ("wait: 0", "must be more than 0.0, not 0 (wait)"),
        ("wait: 9.5", "must be less than 9.0, not 9.5 (wait)"),
        ("wait: soon", "must be a number, not 'soon' (wait)"),
        ("count: 10", "must be at most 9, not 10 (count)"),
        ("count: ten", "must be a whole number, not 'ten' (count)"),
        ("count: 1.5", "must be a whole number, not 1.5 (count)"),
        ("code: a", "must have at least 2 characters (code)"),
        ("code: abcd", "must have at most 3 characters (code)"),
        ("names: [a, b, c]", "must have at most 2 items (names)"),
        ("names: [a, B]", "1:12: error: 'B' does not have the right form (names.1); write lower-case letters only"),
        ("flag: maybe", "must be true or false, not 'maybe' (flag)"),
        ("flag: {}", "must be true or false, not a mapping (flag)"),
        ("colour: bleu", "'bleu' is not one of red, blue (colour); did you mean 'blue'?"),
        ("colour: true", "true is not one of red, blue (colour)"),
        ("names: {}", "must be a list, not a mapping (names)"),
        ("by_name: []", "must be a mapping, not a list (by_name)"),
        (
            "by_name: {A: {kind: flat, rate: 1}}",
            "1:11: error: 'A' does not have the right form (by_name.A); write lower-case",
        ),
        ("by_name: {a: 1}", "must be a mapping, not a number (by_name.a)"),
        ("otherwise: x", "must be a whole number, not 'x' (otherwise)"),
        # a scalar or a mapping
        ("cost: 0", "1:7: error: must be at least 1, not 0 (cost)"),
        ("cost: x", "1:7: error: must be a whole number or a mapping, not 'x' (cost)"),
        ("cost: [1]", "must be a whole number or a mapping, not a list (cost)"),
        ("cost: {kind: burst, burst: 0}", "1:28: error: must be at least 1, not 0 (cost.burst)"),
        ("cost: {kind: burst}", "'burst' is missing (cost.burst)"),
        ("cost: {kind: burst, burst: 1, fixed: {fixed: x}}", "not 'x' (cost.fixed.fixed)"),
        ("cost: {kind: burst, burst: 1, int: 1}", "unknown key 'int' (cost.int); known here: kind, burst, fixed"),
        ("caller: 1", "must be text or a mapping, not a number (caller)"),
        ("caller: A", "1:9: error: 'A' does not have the right form (caller); write lower-case letters only"),
        ("caller: {kind: brust, burst: 1}", "must be 'burst', not 'brust' (caller.kind); did you mean 'burst'?"),
        # by validators
        ("must: y", "1:7: error: must be x, and Y is not (must)"),
        ("must: assert", "asserted otherwise (must)"),
        ("must: custom", "it is custom (must)"),
        ("flag: true\nfree: me", "1:1: error: flag goes without me"),
    ],
)
def test_an_error_is_a_sentence_with_its_position(tmp_path: Path, text: str, line: str) -> None:
    (fault,) = checked(read(tmp_path, text))
    assert line in rendered(fault)


def test_all_faults_are_told_in_order(tmp_path: Path) -> None:
    main = "include: [part.yml]\nwait: 0\nnaem: a\n"
    source = source_of(written(tmp_path, {"z.yaml": main, "part.yml": "count: x\nnames: [1]\n"}))
    assert [(Path(fault.file).name, fault.line, fault.code) for fault in checked(source)] == [
        ("part.yml", 1, "wrong_type"),
        ("part.yml", 2, "wrong_type"),
        ("z.yaml", 2, "out_of_bounds"),
        ("z.yaml", 3, "unknown_key"),
    ]


def test_more_faults_than_anybody_reads_are_counted(tmp_path: Path) -> None:
    faults = checked(read(tmp_path, "names:\n" + "- X\n" * (MAX_FAULTS + 7)))
    assert len(faults) == MAX_FAULTS + 1
    assert (faults[-1].code, faults[-1].what, faults[-1].line) == ("more_faults", "7 more errors are not shown", 1)


SECRET = "Tr0ub4dor-and-3"


@pytest.mark.parametrize(
    "text",
    [
        *("version: ${S}", "name: ${S}", "wait: ${S}", "count: ${S}", "code: ${S}", "flag: ${S}", "colour: ${S}"),
        *("must: ${S}", "must: x${S}", "flag: true\nfree: ${S}", "filled: [{kind: '${S}', rate: 1}]", "cost: ${S}"),
        *("caller: ${S}", "cost: {kind: '${S}', burst: 1}", "names: ['${S}']", "zzz: ${S}", "by_name: {A: '${S}'}"),
        *("free: ${S}\nflag: true", "by_name: '${S}'", "filled: ['${S}']"),
    ],
)
def test_no_fault_shows_what_came_from_the_environment(tmp_path: Path, text: str) -> None:
    faults = checked(read(tmp_path, text, {"S": SECRET}))
    assert faults
    for fault in faults:
        for start in range(len(SECRET) - 3):
            assert SECRET[start : start + 4].lower() not in rendered(fault).replace(str(tmp_path), "").lower()


def test_a_choice_is_not_suggested_for_a_secret(tmp_path: Path) -> None:
    (fault,) = checked(read(tmp_path, "colour: ${S}", {"S": "bleu"}))
    assert (fault.what, fault.hint) == ("the value of S is not one of red, blue", "")


def test_a_place_with_a_fault_is_not_told_again(tmp_path: Path) -> None:
    text = "name: '${NOWHERE}'\nmust: '${NOWHERE}'\ncount: x\n"
    source = read_source(written(tmp_path, {"p.yaml": text}), {})[0]
    assert source is not None
    assert [fault.path for fault in checked(source)] == ["count"]


def test_a_list_of_wrong_items_is_not_also_too_short(tmp_path: Path) -> None:
    (fault,) = checked(read(tmp_path, "filled: [{kind: flat, rate: x}]"))
    assert (fault.code, fault.path) == ("wrong_type", "filled.0.rate")
    (fault,) = checked(read(tmp_path, "filled: []"))
    assert (fault.code, fault.what) == ("wrong_length", "must have at least one item")
