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
_UNEXPECTED = re.compile(
    r"Syntax error: (?:mismatched input|extraneous input|token recognition error at:|no viable alternative at input)"
    r" '('?[^']+)"
)
_TYPES_AT_RUN_TIME = re.compile(r"No matching overloads found : (\S+?)(\(.*\))$")
_DASHED = re.compile(r"(request\.headers|identity\.claims)(?:\.|\[)(\w+(?:-\w+)+)\]?")
_SPELLINGS = {"and": "&&", "or": "||", "not": "!", "=": "==", "is": "==", "like": "matches()", "~": "matches()"}
_IN_LIST = "of a list write 'x' in identity.roles"
_EVERY = "write identity.roles.{}(role, role == 'x')"
_INSTEAD = {
    "has": f"has() takes a field, as in has(identity.claims.plan); {_IN_LIST}",
    **dict.fromkeys(("includes", "indexOf", "hasAny", "includesAny"), _IN_LIST),
    **{name: _EVERY.format(name) for name in ("all", "exists", "exists_one", "filter")},
    "any": _EVERY.format("exists"),
    **dict.fromkeys(("len", "length", "count"), "write size(...)"),
    **dict.fromkeys(("now", "hour"), "read time.epoch, time.hour or time.weekday"),
    **dict.fromkeys(("regex", "re_match", "like"), "write request.path.matches('^/v2/')"),
    **dict.fromkeys(
        ("lower", "upper", "lowerAscii", "upperAscii", "toLowerCase", "toUpperCase"),
        "CEL cannot change the case of a text: write matches('(?i)^alice$')",
    ),
}
_HINTS = (
    ("must be a field selection", "as in has(identity.claims.plan)"),
    ("operand of a select operation", f"a list or text has no fields: write size(...); {_IN_LIST}"),
    ("reserved identifier: if", "write condition ? one : other"),
)
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
    """A wrong condition: `what` in one sentence, what to write instead, `offset` in characters from its start."""

    def __init__(self, what: str, offset: int, hint: str = "") -> None:
        super().__init__(f"{what} (at character {offset + 1}){f': {hint}' if hint else ''}")
        self.what = what
        self.offset = offset
        self.hint = hint


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
        what = f"{_operator(overload[1])} does not take {overload[2]}"
        return ConditionError(what, offset, _of_types(overload[1], overload[2]))
    if unexpected := _UNEXPECTED.match(what):
        return _syntax(text, offset, unexpected[1].strip())
    hint = next((hint for words, hint in _HINTS if words in what), "")
    return ConditionError(what[:1].lower() + what[1:], offset, hint)


def _of_types(function: str, types: str) -> str:
    if "list(" in types:
        return _IN_LIST
    return "compare a number with a number, without quotes" if "int" in types and "string" in types else ""


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
        return ConditionError(f"unknown function {name!r}", start, _known_function(name))
    if dashed := _DASHED.search(text):
        quoted = f"write {dashed[1]}['{dashed[2]}']"
        return ConditionError(f"{dashed[0]!r} reads as a subtraction", dashed.start(), quoted)
    return ConditionError(f"unknown variable {name!r}", start, _known_variable(name))


def _known_function(name: str) -> str:
    if hint := _INSTEAD.get(name):
        return hint
    if name in FUNCTIONS:
        return f"write it after its value, as in identity.subject.{name}(...)"
    return did_you_mean(name, sorted(FUNCTIONS)) or f"functions: {', '.join(sorted(FUNCTIONS))}"


def _known_variable(name: str) -> str:
    root, *rest = name.split(".")
    inside = [known for known in sorted(NAMES) if known.startswith(f"{root}.")]
    if near := did_you_mean(".".join([root, *rest[:1]]), sorted(NAMES), cutoff=0.8 if inside else 0.6):
        return near
    if inside:
        other = f"; any other claim is identity.claims.{rest[0]}" if rest and root == "identity" else ""
        return f"write one of {', '.join(inside)}{other}"
    inside = [known for known in sorted(NAMES) if known.endswith(f".{name}")]
    if inside:
        return f"did you mean {inside[0]!r}?"
    readable = "a condition can read identity, request, model and time"
    return readable if rest else f"{readable}; write a text in quotes: '{name}'"


def _syntax(text: str, offset: int, token: str) -> ConditionError:
    if token == "<EOF>":  # noqa: S105 - no password
        return ConditionError("the condition ends too early", offset)
    if token.startswith(("'", '"')):
        return ConditionError("this text has no closing quote, or an unknown escape", offset)
    if text[:offset].rstrip().endswith("not"):
        token, offset = "not", text[:offset].rindex("not")
    spelling = _SPELLINGS.get(token)
    return ConditionError(f"unexpected {token!r}", offset, f"write {spelling}" if spelling else "")
