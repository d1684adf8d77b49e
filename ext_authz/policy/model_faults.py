"""What pydantic has against a policy, in its author's words and with the place in the file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs
from pydantic import BaseModel, ValidationError

from ext_authz.policy.faults import Fault, Step, did_you_mean, fault_at, in_order, shown
from ext_authz.policy.model_path import Located, located
from ext_authz.policy.source import Source
from ext_authz.policy.yaml_tree import Node, ScalarNode, child, kind

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MOST_FAULTS = 1000
_MOST_CHOICES = 12

_EXPECTED = {
    "string_type": "text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
    "none_required": "left empty",
}
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
}
_LENGTHS = {
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
}
_RENAMED = {"shadow": "dry_run"}
"""Keys of earlier versions, with what they are called now."""

_KEY_ERRORS = ("missing", "extra_forbidden")


class _Error(Struct, frozen=True):
    type: str
    context: dict[str, Any]
    message: str
    at: Located
    source: Source
    expected: str = ""

    @property
    def node(self) -> Node | None:
        """What stands at the place; None where a validator made something of it that is not in the file."""
        node: Node | None = self.source.tree
        for step in self.at.path:
            node = None if node is None else child(node, step)
        return node

    @property
    def value(self) -> str:
        """What the author wrote, as far as a message may show it."""
        if self.at.is_key:
            return shown(str(self.at.path[-1]))
        node = self.node
        if node is None:
            return "the value"
        if not isinstance(node, ScalarNode) or node.value is None:
            return kind(node)
        if node.variables:
            return f"the value of {' and '.join(node.variables)}"
        return shown(node.value) if isinstance(node.value, str) else str(node.value).lower()

    @property
    def word(self) -> str:
        """What the author wrote, to look for near words; empty where that would tell a secret."""
        node = self.node
        return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) and not node.variables else ""


class _Sentence(Struct, frozen=True):
    code: str
    what: str
    hint: str = ""


def faults_of(error: ValidationError, source: Source, root_model: type[BaseModel]) -> list[Fault]:
    """All faults in order of their places, each once, at most `MOST_FAULTS`. Nothing from the environment is in them.

    Places that already have a fault of the source are left out.
    """
    details = error.errors(include_url=False, include_input=False)
    errors = [_error(detail, source, root_model) for detail in details[:MOST_FAULTS]]
    meant = [error for error in _meant(errors, 0) if not source.is_broken(error.at.path)]
    above = {error.at.key[:end] for error in meant for end in range(len(error.at.path))}
    # pydantic counts only the items that are right, and then finds a list of wrong ones too short.
    faults = list(in_order(_fault(error) for error in meant if error.type != "too_short" or error.at.key not in above))
    if len(details) > MOST_FAULTS:
        what = f"{len(details) - MOST_FAULTS} more faults are not shown"
        faults.append(fault_at(source.position(()), (), "more_faults", what))
    return faults


def _error(details: ErrorDetails, source: Source, root_model: type[BaseModel]) -> _Error:
    at = located(details["loc"], root_model, source.tree)
    return _Error(details["type"], details.get("ctx", {}), details["msg"], at, source)


def _meant(errors: Iterable[_Error], level: int) -> Iterator[_Error]:
    """pydantic tells what is wrong for each member of a union: keep what concerns the one that was meant."""
    unions: defaultdict[tuple[Step, ...], defaultdict[str, list[_Error]]] = defaultdict(lambda: defaultdict(list))
    for error in errors:
        if len(error.at.unions) > level:
            place, member = error.at.unions[level]
            unions[place][member].append(error)
        else:
            yield error
    for place, members in unions.items():
        yield from _of_nearest_member(place, list(members.values()), level)


def _of_nearest_member(place: tuple[Step, ...], members: list[list[_Error]], level: int) -> Iterator[_Error]:
    def other_kind(errors: list[_Error]) -> str:
        return next((kind for error in errors if error.at.key == place and (kind := _expected_kind(error))), "")

    def misfits(errors: list[_Error]) -> tuple[int, int, int]:
        keys = [error for error in errors if error.type in _KEY_ERRORS and error.at.key[:-1] == place]
        strange = [error for error in keys if not did_you_mean(str(error.at.path[-1]), error.at.siblings)]
        return len(keys), len(strange), len(errors)

    if fitting := sorted((errors for errors in members if not other_kind(errors)), key=misfits):
        yield from _meant(fitting[0], level + 1)
    else:
        yield structs.replace(members[0][0], expected=" or ".join(dict.fromkeys(map(other_kind, members))))


def _expected_kind(error: _Error) -> str:
    """What was expected when the value is of another kind: a list in place of one of some words, not a wrong word."""
    if error.type in ("literal_error", "enum") and not isinstance(error.node, ScalarNode):
        return str(error.context["expected"])
    return _EXPECTED.get(error.type, "")


def _fault(error: _Error) -> Fault:
    sentence = _sentence(error)
    path = error.at.path
    at_key = error.at.is_key or sentence.code == "unknown_key"
    position = error.source.key_position(path) if at_key else error.source.position(path)
    return fault_at(position, path, sentence.code, sentence.what, sentence.hint)


def _sentence(error: _Error) -> _Sentence:
    if error.expected or error.type in _EXPECTED:
        return _wrong_type(error)
    if error.type in _BOUNDS:
        return _Sentence(
            "out_of_bounds", f"must be {_BOUNDS[error.type].format(**error.context)}, not {error.value}", error.at.shape
        )
    if error.type in _LENGTHS:
        return _Sentence("wrong_length", _LENGTHS[error.type].format(**error.context), error.at.shape)
    return _SENTENCES.get(error.type, _foreign)(error)


def _wrong_type(error: _Error) -> _Sentence:
    expected = error.expected or _EXPECTED[error.type]
    parsed = error.type.endswith("_parsing") or error.type == "int_from_float"
    found = error.value if parsed or error.node is None else kind(error.node)
    in_quotes = expected == "text" and found in ("a number", "true or false")
    return _Sentence(
        "wrong_type", f"must be {expected}, not {found}", "write it in quotes" if in_quotes else error.at.shape
    )


def _unknown_key(error: _Error) -> _Sentence:
    key, known = str(error.at.path[-1]), error.at.siblings
    if (now := _RENAMED.get(key)) in known:
        return _Sentence("unknown_key", f"the key {shown(key)} is now called {shown(str(now))}", f"write {now} instead")
    hint = did_you_mean(key, known) or f"known here: {', '.join(known)}"
    return _Sentence("unknown_key", f"unknown key {shown(key)}", hint)


def _missing(error: _Error) -> _Sentence:
    return _Sentence("missing_key", f"{shown(str(error.at.path[-1]))} is missing", error.at.shape)


def _wrong_form(error: _Error) -> _Sentence:
    hint = error.at.shape or f"the pattern is {error.context['pattern']}"
    return _Sentence("wrong_form", f"{error.value} does not have the right form", hint)


def _not_a_choice(error: _Error) -> _Sentence:
    choices = re.findall(r"'([^']*)'", error.context["expected"])
    hint = did_you_mean(error.word, choices)
    if len(choices) < 2:
        return _Sentence("not_a_choice", f"must be {error.context['expected']}, not {error.value}", hint)
    return _Sentence("not_a_choice", f"{error.value} is not one of {_listed(choices)}", hint)


def _tag_unknown(error: _Error) -> _Sentence:
    error.at.path.append(error.context["discriminator"].strip("'"))
    context = {"expected": error.context["expected_tags"]}
    return _not_a_choice(structs.replace(error, context=context))


def _tag_missing(error: _Error) -> _Sentence:
    error.at.path.append(error.context["discriminator"].strip("'"))
    return _missing(error)


def _foreign(error: _Error) -> _Sentence:
    """Said by a validator, which may quote the value."""
    text = " ".join(error.message.removeprefix("Value error, ").removeprefix("Assertion failed, ").split())
    said = error.source.masked(f"{text[:1].lower()}{text[1:]}".rstrip("."), error.at.path)
    code = "wrong_value" if error.type in ("value_error", "assertion_error") else error.type
    return _Sentence(code, said, error.at.shape)


def _listed(choices: list[str]) -> str:
    more = ", ..." if len(choices) > _MOST_CHOICES else ""
    return ", ".join(choices[:_MOST_CHOICES]) + more


_SENTENCES: dict[str, Callable[[_Error], _Sentence]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "string_pattern_mismatch": _wrong_form,
    "literal_error": _not_a_choice,
    "enum": _not_a_choice,
    "union_tag_invalid": _tag_unknown,
    "union_tag_not_found": _tag_missing,
}
