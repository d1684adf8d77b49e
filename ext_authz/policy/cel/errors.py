"""Errors of conditions in plain sentences: CEL's own messages require knowledge of its grammar."""

from __future__ import annotations

import re

from ext_authz.errors import ConfigError
from ext_authz.policy.cel.variables import NAMES
from ext_authz.policy.faults import did_you_mean

FUNCTIONS = frozenset(
    {"all", "exists", "exists_one", "filter", "map", "has", "size", "matches", "contains", "startsWith", "endsWith"}
    | {"bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"}
    | {"getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getMonth"}
    | {"getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
"""The functions and macros of the CEL specification; no extension is loaded."""

_ERROR = re.compile(r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)", re.MULTILINE)
_UNDECLARED = re.compile(r"undeclared reference to '(.*)' \(in container")
_OVERLOAD = re.compile(r"found no matching overload for '(.*)' applied to '(\(.*\))'")
_UNEXPECTED = re.compile(r"Syntax error: (?:mismatched input|extraneous input|token recognition error at:) '('?[^']+)")
_TYPES_AT_RUN_TIME = re.compile(r"No matching overloads found : (\S+?)(\(.*\))$")
_SPELLINGS = {"and": "&&", "or": "||", "not": "!", "=": "=="}
_PLACES = str.maketrans("", "", "_@")

_REASONS = (
    ("Key not found in map", "a claim, header or key that it reads is missing"),
    ("Index error", "a list that it reads is too short"),
    ("Iteration budget exceeded", "the lists are too long"),
    ("integer overflow", "a number became too large"),
    ("out of", "a number is too large"),
    ("by zero", "it divides by zero"),
    ("onver", "a text cannot be converted"),
    ("Non-CEL value", "a claim has a value that is not JSON"),
)
_OTHER_REASON = "a value is not of the type that it expects"


class ConditionError(ConfigError):
    """A wrong condition: `what` in one sentence, `offset` in characters from the start of its text."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what} (at character {offset + 1})")
        self.what = what
        self.offset = offset


def compile_error(text: str, message: str) -> ConditionError:
    """The message of the CEL compiler about `text` in a plain sentence."""
    errors = [(_offset(text, int(line), int(column)), what) for line, column, what in _ERROR.findall(message)]
    if not errors or "recursion" in errors[0][1]:
        return ConditionError("the condition is nested too deeply, or too many operators follow each other", 0)
    # An unknown function makes the names that it would declare unknown too: report the function.
    offset, what = next((error for error in errors if _UNDECLARED.match(error[1]) and _calls(text, error)), errors[0])
    if unknown := _UNDECLARED.match(what):
        return _unknown(text, unknown[1], offset)
    if overload := _OVERLOAD.match(what):
        return ConditionError(f"{_operator(overload[1])} does not take {overload[2]}", offset)
    if unexpected := _UNEXPECTED.match(what):
        return ConditionError(_syntax(unexpected[1].strip()), offset)
    return ConditionError(what[:1].lower() + what[1:], offset)


def evaluation_error(message: str) -> str:
    """Why an evaluation failed. Without values: they are data of callers, and this is logged."""
    if types := _TYPES_AT_RUN_TIME.search(message):
        return f"{_operator(types[1])} does not take {types[2]}"
    return next((reason for sign, reason in _REASONS if sign in message), _OTHER_REASON)


def _offset(text: str, line: int, column: int) -> int:
    before = sum(len(each) + 1 for each in text.split("\n")[: max(line - 1, 0)])
    return max(0, min(before + column - 1, len(text)))


def _calls(text: str, error: tuple[int, str]) -> bool:
    return text[error[0] : error[0] + 1] == "("


def _operator(name: str) -> str:
    return repr(name if name.replace("_", "").isalnum() and not name.startswith("_") else name.translate(_PLACES))


def _unknown(text: str, name: str, offset: int) -> ConditionError:
    start = max(text.rfind(name.split(".")[0], 0, offset + 1), 0)
    if _calls(text, (offset, name)):
        return ConditionError(f"unknown function {name!r}: {_known_function(name)}", start)
    return ConditionError(f"unknown variable {name!r}: {_known_variable(name)}", start)


def _known_function(name: str) -> str:
    if name in FUNCTIONS:
        return f"write it after its value, as in identity.subject.{name}(...)"
    return did_you_mean(name, sorted(FUNCTIONS)) or "CEL has no such function"


def _known_variable(name: str) -> str:
    root, *rest = name.split(".")
    inside = [known for known in sorted(NAMES) if known.startswith(f"{root}.")]
    if inside and not rest:
        return f"write one of {', '.join(inside)}"
    if near := did_you_mean(".".join([root, *rest[:1]]), sorted(NAMES)):
        return near
    inside = [known for known in sorted(NAMES) if known.endswith(f".{name}")]
    return f"did you mean {inside[0]!r}?" if inside else "a condition can read identity, request, model and time"


def _syntax(token: str) -> str:
    if token == "<EOF>":  # noqa: S105 - no password
        return "the condition ends too early"
    if token.startswith(("'", '"')):
        return "this text has no closing quote, or an unknown escape"
    hint = f": write {_SPELLINGS[token]}" if token in _SPELLINGS else ""
    return f"unexpected {token!r}{hint}"
