"""From the text of one YAML file to its tree, within bounds, and without what reads otherwise than it looks.

Built on the parser's events, not on `yaml.compose`, which recurses (100,000 brackets keep it busy for 20 s), cannot be
stopped at a depth or number of nodes, and takes five times as long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import yaml

from ext_authz.policy.bounds import Budget
from ext_authz.policy.faults import Fault, Position, fault_at
from ext_authz.policy.yaml_builder import TreeBuilder, Unreadable
from ext_authz.policy.yaml_tree import MappingNode

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Control characters, line breaks that only some editors show, and characters that are invisible or turn the direction
# of what follows ("Trojan Source").
_UNSEEN = re.compile(
    "[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ufffe\uffff"
    "\U000e0000-\U000e007f]|\r(?!\n)"
)
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)  # many %TAG lines take the parser quadratic time
_MOST_CHARACTERS_TOLD = 20

_SYNTAX_HINTS = (
    ("mapping values are not allowed", "a text that holds ': ' stands in quotes"),
    ("cannot start any token", "a text that begins with @, ` or % stands in quotes"),
    ("alphabetic or numeric character", "a text that begins with * or & stands in quotes"),
    ("while scanning a quoted scalar", "close the quote, and write a backslash in double quotes as \\\\"),
    ("while parsing a flow", "check commas and brackets; a text that holds one, as ${NAME} does, stands in quotes"),
    ("while parsing a block", "check the indentation against the lines above"),
    ("while scanning a simple key", "write key: value, with a space after the colon"),
)


def parsed(
    text: str, file: Path, environ: Mapping[str, str], budget: Budget, faults: list[Fault]
) -> MappingNode | None:
    """The tree, or None when the text cannot be read to its end as one mapping. Adds what is wrong to `faults`."""
    if unseen := _character_faults(text, file):
        faults.extend(unseen)
        return None
    builder = TreeBuilder(file, environ, budget, faults)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        faults.append(_syntax_fault(file, error))
    except Unreadable:
        pass
    else:
        return builder.root()
    return None


def _character_faults(text: str, file: Path) -> list[Fault]:
    faults = [
        fault_at(_place(text, found.start(), file), (), "wrong_character", *_character_sentence(found[0]))
        for found in islice(_UNSEEN.finditer(text), _MOST_CHARACTERS_TOLD)
    ]
    if found := _DIRECTIVE.search(text):
        what = "a line starts with %, as a YAML directive does"
        faults.append(fault_at(_place(text, found.start(), file), (), "directive", what, "leave directives out"))
    return faults


def _character_sentence(char: str) -> tuple[str, str]:
    if char == "\t":
        return "a tab stands in the file", 'use spaces; in a text write "\\t" in double quotes'
    if char == "\r":
        return "a carriage return stands alone", "end lines with a line feed"
    return f"the unseen character U+{ord(char):04X} stands in the file", "remove it, or escape it in double quotes"


def _place(text: str, index: int, file: Path) -> Position:
    return Position(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _syntax_fault(file: Path, error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None)
    position = Position(file, mark.line + 1, mark.column + 1) if mark else Position(file)
    said = " ".join(text for text in (getattr(error, "context", ""), getattr(error, "problem", "")) if text)
    hint = next((hint for words, hint in _SYNTAX_HINTS if words in said), "")
    return fault_at(position, (), "syntax", f"not YAML: {said or 'the text cannot be read'}", hint)
