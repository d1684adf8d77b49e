"""One YAML file, read into a tree, without anything that reads otherwise than it looks.

PyYAML parses, with libyaml where it was built. Why this walks its events: docs/adr/0022-policy-yaml.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NoReturn, cast

import yaml

from ext_authz.policy.faults import Faults, Position, Step, shown
from ext_authz.policy.tree import Node, Scalar
from ext_authz.policy.variables import WrongReference, substituted

MAX_DEPTH = 64
"""Mappings and lists inside each other."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Control characters, line breaks that only some editors show, and characters that are invisible or turn the direction
# of what follows ("Trojan Source").
_UNSEEN = re.compile(
    "[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ufffe\uffff"
    "\U000e0000-\U000e007f]|\r(?!\n)"
)
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)  # many %TAG lines take the parser quadratic time
_MAX_UNSEEN = 20

_OVER_INDENTED = (
    "the key is indented more than the line above, which has a value already",
    "indent it as the keys above it, or end the line above with its key and a colon",
)
_SYNTAX = (
    ("mapping values are not allowed", "the value contains ': '", "put it in quotes"),
    ("cannot start any token", "a text begins with @, ` or %", "put it in quotes"),
    ("alphabetic or numeric character", "a text begins with * or &", "put it in quotes"),
    ("quoted scalar", "the text in quotes does not end, or has an unknown escape",
     "close the quote, and write a backslash in double quotes as \\\\"),
    ("while parsing a flow", "the list or mapping in brackets is not closed, or lacks a comma",
     "check commas and brackets; put a text that holds one, as ${NAME} does, in quotes"),
    ("while parsing a block", "the line is indented neither as those above it nor as what is in them",
     "check the indentation against the lines above"),
    ("while scanning a simple key", "the line has no key", "write key: value, with a space after the colon"),
)  # fmt: skip
"""What the messages of the parser contain, what they mean, and what to write."""

# The YAML 1.2 core schema, with numbers as JSON writes them. YAML 1.1 makes booleans, octal and sexagesimal numbers and
# dates of `no`, `on`, `010`, `0x1F`, `1:30`, `2026-01-01`, `.inf` and `=`; here they are text.
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<real>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)", re.ASCII)
_MAX_DIGITS = 18
"""Characters: what every reader fits into 64 bits."""


class _Unreadable(Exception):
    """The rest of the file cannot be read; a fault says why."""


def read_yaml(text: str, file: Path, environ: Mapping[str, str], faults: Faults) -> Node | None:
    """The mapping that the file holds, or None when the text cannot be read to its end as one."""
    if _has_wrong_characters(text, file, faults):
        return None
    try:
        return _Reader(text, file, environ, faults).mapping()
    except yaml.YAMLError as error:
        _report_syntax(file, text, error, faults)
    except _Unreadable:
        pass
    return None


class _Reader:
    """Descends into lists and mappings as the parser's events open them."""

    def __init__(self, text: str, file: Path, environ: Mapping[str, str], faults: Faults) -> None:
        self._file = file
        self._environ = environ
        self._faults = faults
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._path: list[Step] = []

    def mapping(self) -> Node | None:
        """The only document, which must be a mapping."""
        root = self._root()
        if root is not None and isinstance(root.value, dict):
            return root
        if root is None or root.value in (None, ""):
            self._report(Position(self._file), "empty_file", "the file is empty", "begin with version: 1")
        else:
            what = f"the file holds {root.kind}, not a mapping"
            self._report(root.position, "not_a_mapping", what, "begin with keys, such as version: 1")
        return None

    def _root(self) -> Node | None:
        root = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event)
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                hint = "write one document per file, without ---"
                self._stop(self._position(event), "several_documents", "a second document begins", hint)
        return root

    def _node(self, event: yaml.Event) -> Node:
        position = self._position(event)
        if isinstance(event, yaml.AliasEvent):
            hint = "repeat the value; put a text that begins with * in quotes"
            self._report(position, "alias", "aliases are not supported", hint)
            return Node(position, None, broken=True)
        self._ensure_plain(event, position)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, position)
        if len(self._path) >= MAX_DEPTH:
            hint = f"at most {MAX_DEPTH} lists and mappings may be inside each other"
            self._stop(position, "too_deep", "the nesting is too deep", hint)
        return self._sequence(position) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(position)

    def _sequence(self, position: Position) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._below(len(items), event))
        return Node(position, items)

    def _mapping(self, position: Position) -> Node:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            at, key = self._position(event), self._key(event, entries)
            entries[key] = node = self._below(key, next(self._events))
            node.key = at
        return Node(position, entries)

    def _below(self, step: Step, event: yaml.Event) -> Node:
        self._path.append(step)
        node = self._node(event)
        self._path.pop()
        return node

    def _key(self, event: yaml.Event, entries: Mapping[str, Node]) -> str:
        position = self._position(event)
        if not isinstance(event, yaml.ScalarEvent):
            found = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or a mapping"
            code = "alias" if isinstance(event, yaml.AliasEvent) else "key_not_text"
            self._stop(
                position,
                code,
                f"a key is {found}",
                "write keys as plain text; put a text that begins with {{ in quotes",
            )
        self._ensure_plain(event, position)
        key = str(event.value)
        self._path.append(key)
        if first := entries.get(key):
            hint = f"the first is in line {(first.key or first.position).line}: keep one of them"
            self._report(position, "duplicate_key", f"the mapping has the key {shown(key)} twice", hint)
        elif key in ("", "<<"):
            hint = "write a name; merge keys are not supported"
            self._report(position, "wrong_key", f"the key {shown(key)} is not allowed", hint)
        elif "${" in key:
            self._report(position, "wrong_key", f"the key {shown(key)} refers to the environment", "only values may")
        self._path.pop()
        return key

    def _scalar(self, event: yaml.ScalarEvent, position: Position) -> Node:
        text = str(event.value)
        try:
            if "${" in text:
                value, variables = substituted(text, self._environ)
                return Node(position, value, variables=variables)
            return Node(position, text if event.style else _resolved(text))
        except WrongReference as wrong:
            self._report(position, *wrong.args)
        except ValueError as wrong:
            self._report(position, "wrong_number", str(wrong), "put a text of digits in quotes")
        return Node(position, None, broken=True)

    def _ensure_plain(self, event: yaml.Event, position: Position) -> None:
        for name, sign in (("anchor", "&"), ("tag", "!")):
            if getattr(event, name) is not None:
                hint = f"remove it; put a text that begins with {sign} in quotes"
                self._report(position, name, f"{name}s are not supported", hint)

    def _position(self, event: yaml.Event) -> Position:
        mark = cast("yaml.Mark", event.start_mark)  # the parser sets it always
        return Position(self._file, mark.line + 1, mark.column + 1)

    def _report(self, position: Position, code: str, what: str, hint: str) -> None:
        self._faults.report(position, self._path, code, what, hint)

    def _stop(self, position: Position, code: str, what: str, hint: str) -> NoReturn:
        self._report(position, code, what, hint)
        raise _Unreadable


def _resolved(text: str) -> Scalar:
    """The value of a plain scalar.

    Raises:
        ValueError: a number too long or too large to be kept as it is written.
    """
    if text in _WORDS:
        return _WORDS[text]
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has more than {_MAX_DIGITS} characters")
    if not found["real"]:
        return int(text)
    number = float(text)
    if math.isinf(number):
        raise ValueError("the number is too large")
    return number


def _has_wrong_characters(text: str, file: Path, faults: Faults) -> bool:
    unseen = list(islice(_UNSEEN.finditer(text), _MAX_UNSEEN))
    for found in unseen:
        faults.report(_position(text, found.start(), file), (), "wrong_character", *_described(found[0]))
    directive = _DIRECTIVE.search(text)
    if directive:
        what = "a line begins with %, as a YAML directive does"
        faults.report(_position(text, directive.start(), file), (), "directive", what, "remove the directive")
    return bool(unseen or directive)


def _described(char: str) -> tuple[str, str]:
    if char == "\t":
        return "the file contains a tab", 'use spaces; in a text write "\\t" in double quotes'
    if char == "\r":
        return "a carriage return has no line feed", "end lines with a line feed"
    return f"the file contains the invisible character U+{ord(char):04X}", "remove it, or escape it in double quotes"


def _position(text: str, index: int, file: Path) -> Position:
    return Position(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _report_syntax(file: Path, text: str, error: yaml.YAMLError, faults: Faults) -> None:
    message = " ".join(text for text in (getattr(error, "context", ""), getattr(error, "problem", "")) if text)
    known = ((what, hint) for words, what, hint in _SYNTAX if words in message)
    what, hint = next(known, (message or "the text cannot be read", ""))
    line, column = _place(error)
    before = "".join(text.split("\n")[line : line + 1])[:column]
    if "mapping values" in message and ": " not in before:
        (what, hint), column = _OVER_INDENTED, len(before) - len(before.lstrip(" -"))
    faults.report(Position(file, line + 1, column + 1), (), "syntax", f"invalid YAML: {what}", hint)


def _place(error: yaml.YAMLError) -> tuple[int, int]:
    """Line and column from 0: where what is not closed begins, or else where the parser could not go on."""
    problem, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    opened = any(words in str(getattr(error, "context", "")) for words in ("quoted scalar", "flow"))
    mark = context if opened and context and problem and problem.line > context.line else problem
    return (mark.line, mark.column) if mark else (0, 0)
