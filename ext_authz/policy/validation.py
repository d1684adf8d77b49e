"""What pydantic finds wrong with a policy, in plain sentences and with the position in the file."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ext_authz.policy.annotations import Annotation, below, fields, is_model, members_of, model_of, unwrapped
from ext_authz.policy.documents.base import Shape
from ext_authz.policy.faults import MAX_FAULTS, MORE, Fault, Step, did_you_mean, dotted, fault_at, in_order, shown
from ext_authz.policy.source import Source
from ext_authz.policy.tree import Node

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MAX_CHOICES = 12
_ADVICE = re.compile(r"[:;] (?=(?:write|use|add|remove|choose|make|did you mean) )")
"""Where a message of a validator goes over to what to write instead."""
_RENAMED = {"shadow": "dry_run"}
"""Keys of earlier versions, with what they are called now."""

_EXPECTED = {
    "string_type": "text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
}
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}
_LENGTHS = {
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
}

_Path = tuple[Step, ...]
_Sentence = tuple[str, str, str]
"""A code, what is wrong, and a hint."""


def faults_of(error: ValidationError, source: Source, root: type[BaseModel]) -> list[Fault]:
    """All faults in order of their positions, each once, at most `MAX_FAULTS`; without values from the environment.

    Paths that already have a fault of the source are left out.
    """
    errors = _errors(error, source, root)
    faults = list(in_order(each.fault() for each in errors[:MAX_FAULTS] if not source.is_broken(each.path)))
    if len(errors) > MAX_FAULTS:
        what = f"{len(errors) - MAX_FAULTS} more errors are not shown"
        faults.append(fault_at(source.position(()), (), MORE, what))
    return faults


def unusable(error: ValidationError, source: Source, root: type[BaseModel]) -> frozenset[tuple[Step, ...]]:
    """The paths without which the rest could be valid: of what is wrong, and of what lacks something."""
    return frozenset(each.path if each.node else each.path[:-1] for each in _errors(error, source, root))


def _errors(error: ValidationError, source: Source, root: type[BaseModel]) -> list[_Error]:
    errors = [_Error(each, source, root) for each in error.errors(include_url=False, include_input=False)]
    above = {each.path[:end] for each in errors if each.is_meant for end in range(len(each.path))}
    # pydantic counts only the items that are right, and then finds a list of wrong ones too short.
    return [each for each in errors if each.is_meant and (each.type != "too_short" or each.path not in above)]


class _Error:
    """One error of pydantic, with the path of its value in the file and with what the model says about it.

    A `loc` also has steps that are not in the file: `[key]`, and the chosen member of a union. Only the model
    distinguishes them from keys of the same name.
    """

    def __init__(self, details: ErrorDetails, source: Source, root: type[BaseModel]) -> None:
        self.type = details["type"]
        self.context = details.get("ctx", {})
        self.message = details["msg"]
        self.path: _Path = ()
        self.is_key = False
        self.is_meant = True
        """False: the error of a member of a union that the author did not mean."""
        self.alternative = ""
        """The other member of the union that the value itself is in."""
        self._source = source
        self._annotation: Annotation = root
        self._container: Annotation = None
        self._above: list[Annotation] = []
        """The containers from the outside in."""
        self._shape = Shape("")
        self._example = ""
        for step in details["loc"]:
            self._follow(step)

    def _follow(self, step: Step) -> None:
        if members := members_of(self._annotation):
            self._choose(members, str(step))
        elif step == "[key]":
            self.is_key = True
            self._enter(get_args(self._container)[0])
        else:
            self.path += (step,)
            self._container = self._annotation
            self._above.append(self._container)
            self._enter(below(self._annotation, step))
            self.alternative = ""

    def _choose(self, members: list[Annotation], label: str) -> None:
        """Unions are of a scalar and a model: a mapping was meant as the model, anything else as the scalar."""
        (scalar,) = (member for member in members if not is_model(member))
        (model,) = (member for member in members if is_model(member))
        is_mapping, of_model = isinstance(self.node and self.node.value, dict), model.__name__ in label
        self.is_meant &= is_mapping == of_model
        self.alternative = "" if is_mapping else " or a mapping"
        self._enter(model if of_model else scalar)

    def _enter(self, annotation: Annotation) -> None:
        if isinstance(annotation, FieldInfo) and annotation.examples:
            self._example = f"for example {self.path[-1]}: {flow(annotation.examples[0])}"
        elif isinstance(annotation, FieldInfo):
            self._example = ""
        self._annotation, metadata = unwrapped(annotation)
        self._shape = next((each for each in metadata if isinstance(each, Shape)), Shape(""))

    @property
    def node(self) -> Node | None:
        """The value at the path; None where there is none."""
        node, is_there = self._source.tree.nearest(self.path)
        return node if is_there else None

    def fault(self) -> Fault:
        code, what, hint = self._sentence()
        at_key = self.is_key or code == "unknown_key"
        position = self._source.key_position(self.path) if at_key else self._source.position(self.path)
        return fault_at(position, self.path, code, what, hint)

    def _sentence(self) -> _Sentence:
        if self.type in _EXPECTED:
            return self._wrong_type()
        if self.type in _BOUNDS:
            bound = _BOUNDS[self.type].format(**self.context)
            return "out_of_bounds", f"must be {bound}, not {self._value}", self._form
        if self.type in _LENGTHS:
            what = _LENGTHS[self.type].format(**self.context)
            return "wrong_length", re.sub(" 1 (item|character)s", r" one \1", what), self._form
        match self.type:
            case "extra_forbidden":
                return self._unknown_key()
            case "missing":
                starter = "" if self.path[1:] else "tollgate policy new writes a policy to start from"
                return "missing_key", f"{shown(str(self.path[-1]))} is missing", self._form or starter
            case "string_pattern_mismatch":
                return "wrong_form", f"{self._value} does not have the right form", self._right_form()
            case "literal_error" | "enum":
                return self._not_a_choice()
        return self._by_validator()

    def _wrong_type(self) -> _Sentence:
        parsed = self.type.endswith("_parsing") or self.type == "int_from_float"
        found = self._value if parsed or self.node is None else self.node.kind
        expected = _EXPECTED[self.type] + self.alternative
        return "wrong_type", f"must be {expected}, not {found}", self._of_type(expected, found)

    def _of_type(self, expected: str, found: str) -> str:
        match expected, found:
            case "text", "a number" | "true or false":
                return "write it in quotes"
            case "text", "a list" if "any" in fields(self._container):
                return f"write any: [{{{self.path[-1]}: ONE}}, {{{self.path[-1]}: OTHER}}]"
            case "a list", "text" if self._word:
                return f"write [{self._word}]"
            case "a list", "a mapping":
                return "begin each item with -"
            case "a mapping", "a list" if not is_model(self._annotation):
                return "write each under its name, without -"
            case "a mapping", _:
                return self._of_mapping(found)
        return self._form

    def _of_mapping(self, found: str) -> str:
        known = fields(self._annotation)
        if self.path[-1] in known:
            return f"{self.path[-1]} is a key of one of {dotted(self.path[:-1])}: indent it under its name"
        if found == "an empty value":
            return "write what belongs to it under it, indented more"
        first = next(iter(known.items()), None)
        if self._example or not first:
            return self._example
        return f"begin with {first[0]}: ..." if first[1].is_required() else f"its keys are {', '.join(known)}"

    @property
    def _form(self) -> str:
        return f"write {self._shape.text}" if self._shape.text else self._example

    def _right_form(self) -> str:
        if not self._shape.text:
            return f"the pattern is {self.context['pattern']}"
        text = str(self.path[-1]) if self.is_key else self._word
        mended = self._shape.mended(text) if self._shape.mended and text else ""
        fits = re.search(self.context["pattern"], mended)
        return f"write {mended} ({self._shape.text})" if fits else f"write {self._shape.text}"

    def _unknown_key(self) -> _Sentence:
        key, known = str(self.path[-1]), list(fields(self._container))
        if (now := _RENAMED.get(key, "")) in known:
            return "unknown_key", f"the key {shown(key)} is now called {shown(now)}", f"write {now} instead"
        hint = self._indented_less(key) or did_you_mean(key, known, cutoff=0.7) or self._indented_more(key)
        return "unknown_key", f"unknown key {shown(key)}", hint or f"known here: {', '.join(known)}"

    def _indented_less(self, key: str) -> str:
        """The value above, or the last one in it, is a mapping that lacks this key."""
        above, _ = self._source.tree.nearest(self.path[:-1])
        before = [
            name for name in takewhile(lambda name: name != key, above.entries) if name in fields(self._container)
        ]
        path, node, annotation = self.path[:-1], above, self._container
        step: Step | None = before[-1] if before else None
        while step is not None and (child := node.child(step)):
            path, node, annotation = (*path, step), child, model_of(below(annotation, step))
            if key in fields(annotation) and node.entries and key not in node.entries:
                column = next(each.key.column for each in node.entries.values() if each.key)
                return f"it is a key of {dotted(path)}: indent it to column {column}, as the keys above it"
            step = len(node.value) - 1 if isinstance(node.value, list) else next(reversed(node.entries), None)
        return ""

    def _indented_more(self, key: str) -> str:
        """A container further out has this key, or the name of the mapping itself."""
        for depth, container in reversed([*enumerate(self._above[:-1])]):
            for name in (key, str(self.path[-2])):
                if name in fields(container) and self.path[depth] != name:
                    whole = dotted(self.path[:depth]) or "the policy itself"
                    return f"{name} is a key of {whole}: indent it less"
        return ""

    def _not_a_choice(self) -> _Sentence:
        choices = re.findall(r"'([^']*)'", self.context["expected"])
        several = "write one of them" if self.node and isinstance(self.node.value, list) else ""
        hint = several or did_you_mean(self._word, choices)
        if len(choices) < 2:
            unquoted = "write it without quotes" if self._word == self.context["expected"] else hint
            return "not_a_choice", f"must be {self.context['expected']}, not {self._value}", unquoted
        listed = ", ".join(choices[:_MAX_CHOICES]) + (", ..." if len(choices) > _MAX_CHOICES else "")
        return "not_a_choice", f"{self._value} is not one of {listed}", hint

    def _by_validator(self) -> _Sentence:
        """The message of a validator, which may quote the value."""
        text = " ".join(self.message.removeprefix("Value error, ").removeprefix("Assertion failed, ").split())
        whole = self._source.masked(f"{text[:1].lower()}{text[1:]}".rstrip("."), self.path)
        code = "wrong_value" if self.type in ("value_error", "assertion_error") else self.type
        what, *hint = _ADVICE.split(whole, maxsplit=1)
        return code, what, "".join(hint)

    @property
    def _value(self) -> str:
        """What the author wrote, as far as a message may show it."""
        if self.is_key:
            return shown(str(self.path[-1]))
        node = self.node
        if node is None:
            return "the value"
        if node.value is None or isinstance(node.value, dict | list):
            return node.kind
        if node.variables:
            return f"the value of {' and '.join(node.variables)}"
        return shown(node.value) if isinstance(node.value, str) else str(node.value).lower()

    @property
    def _word(self) -> str:
        """What the author wrote, to search for similar words; empty where that could reveal a secret."""
        node = self.node
        return node.value if node and isinstance(node.value, str) and not node.variables else ""


def flow(value: object) -> str:
    """One line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("...\n").strip()
