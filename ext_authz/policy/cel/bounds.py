"""Bounds what a condition can cost, when it is loaded: refuses a checked syntax tree whose cost has no bound.

CEL always terminates, but not always soon: macros inside macros multiply, joined texts grow, a pattern can take a
second to compile, and a time zone named by a caller makes the library open files. What is allowed here, over variables
that are bounded themselves (`variables.py`), terminates within milliseconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import prod

from google.protobuf.any_pb2 import Any

from ext_authz.gen.tollgate.cel.v1.checked_pb2 import CheckedExpr, Expr
from ext_authz.policy.cel.errors import ConditionError
from ext_authz.policy.cel.variables import ENVIRONMENT, LISTS, MAPS, NAMES, Keys

MAX_PATTERN = 128
MAX_REPETITION = 100

_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_JOINS = frozenset({"add_string", "add_bytes", "add_list"})
_MACROS = "macros (all, exists, exists_one, filter, map)"
_PATTERNS = "uses of matches()"
_WALKS = "comparisons with lists or between variables, inside of macros,"
_MAX_OF = {_MACROS: 4, _PATTERNS: 2, _WALKS: 2}
"""The most of each kind of expensive part: macros, patterns, walks over a list for every member of another."""
_ACCUMULATOR = "@result"
"""The variable into which the macros map and filter collect; no condition can use the name."""

_PROBES = {
    "matches": ENVIRONMENT.compile("''.matches(request.path)"),
    "timestamp": ENVIRONMENT.compile("timestamp(request.path) == timestamp(0)"),
    "duration": ENVIRONMENT.compile("duration(request.path) == duration('1s')"),
    "zone": ENVIRONMENT.compile("timestamp(0).getHours(request.path) == 0"),
}
"""Each evaluates one literal (as the path), so that a mistake in it is found at load, not by refused callers."""


def bounded(serialized: bytes) -> dict[str, Keys]:
    """The variables that a compiled condition reads, each with the only members of it that are read (None: all).

    Raises:
        ConditionError: it could take too long, or can never be evaluated.
    """
    checked = CheckedExpr.FromString(Any.FromString(serialized).value)
    reading = _Reading(checked)
    reading.read(checked.expr, inside=False)
    return reading.reads


class _Reading:
    """One walk over one tree."""

    def __init__(self, checked: CheckedExpr) -> None:
        self.reads: dict[str, Keys] = {}
        self._spent: Counter[str] = Counter()
        self._positions = checked.source_info.positions
        self._references = checked.reference_map

    def read(self, expr: Expr, *, inside: bool) -> None:
        """`inside`: in the body of a macro, which runs once for every member of a list."""
        kind = expr.WhichOneof("expr_kind")
        if kind == "comprehension_expr":
            self._ensure_may_iterate(expr, inside=inside)
        elif kind == "call_expr":
            self._ensure_may_call(expr, inside=inside)
        elif kind in ("list_expr", "struct_expr"):
            self._ensure_may_make(expr, inside=inside)
        if member := _member(expr):
            self._note(member[0], frozenset({member[1]}))
        elif expr.ident_expr.name in NAMES:
            self._note(expr.ident_expr.name, None)
        else:
            for child, repeated in _collected(expr) or _children(expr):
                self.read(child, inside=inside or repeated)

    def _note(self, name: str, keys: Keys) -> None:
        known = self.reads.get(name, frozenset())
        self.reads[name] = None if keys is None or known is None else known | keys

    def _ensure_may_iterate(self, expr: Expr, *, inside: bool) -> None:
        self._spend(_MACROS, expr)
        if inside:
            raise self._error("a macro inside another one would read every list once per member of the other", expr)

    def _ensure_may_make(self, expr: Expr, *, inside: bool) -> None:
        if expr.struct_expr.message_name:
            raise self._error("messages are not supported in a condition", expr)
        if inside and not all(map(_is_constant, (child for child, _ in _children(expr)))):
            raise self._error("lists and maps inside of macros may contain constants only", expr)

    def _ensure_may_call(self, expr: Expr, *, inside: bool) -> None:
        function, arguments = expr.call_expr.function, expr.call_expr.args
        if function == "matches":
            self._ensure_cheap(arguments[-1], inside=inside)
        elif function.startswith("get") and arguments:
            self._ensure_works("zone", arguments[0], self._literal("a time zone", arguments[0]))
        elif function in ("timestamp", "duration") and _is_text(arguments[0]):
            self._ensure_works(function, arguments[0], arguments[0].const_expr.string_value)
        elif inside:
            self._ensure_may_repeat(expr)

    def _ensure_may_repeat(self, expr: Expr) -> None:
        function, arguments = expr.call_expr.function, expr.call_expr.args
        if function in ("contains", "size"):
            self._ensure_of_member(expr)
            for sought in arguments if function == "contains" else ():
                self._literal("what contains() looks for inside of a macro", sought)
        elif _walks(expr):
            self._spend(_WALKS, expr)
            if function != "@in" and any(argument.ident_expr.name in MAPS | LISTS for argument in arguments):
                raise self._error("a whole list or map may be compared outside of macros only", expr)
        elif function == "_+_" and not _collected(expr) and self._joins(expr):
            raise self._error("texts and lists may be joined only outside of macros, where they cannot grow", expr)

    def _ensure_of_member(self, expr: Expr) -> None:
        """Both read a whole text: that of a member once, that of a variable once for every member."""
        text = expr.call_expr.target if expr.call_expr.HasField("target") else expr.call_expr.args[0]
        if not text.ident_expr.name or text.ident_expr.name in NAMES:
            function = expr.call_expr.function
            raise self._error(f"{function}() inside of a macro may read a member only: write it outside", expr)

    def _joins(self, expr: Expr) -> bool:
        return not _JOINS.isdisjoint(self._references[expr.id].overload_id)

    def _ensure_cheap(self, pattern: Expr, *, inside: bool) -> None:
        self._spend(_PATTERNS, pattern)
        text = self._literal("a pattern", pattern)
        if inside:
            raise self._error(
                "matches() inside a macro would compile its pattern for every member: use startsWith()", pattern
            )
        if len(text) > MAX_PATTERN:
            raise self._error(f"a pattern has at most {MAX_PATTERN} characters", pattern)
        if re.search(r"\\[pP]", text):
            raise self._error("Unicode classes make a pattern too large: write the characters", pattern)
        if prod(int(most or least) for least, most in _COUNTED.findall(text)) > MAX_REPETITION:
            raise self._error(f"the repetitions of a pattern may multiply to {MAX_REPETITION} at most", pattern)
        self._ensure_works("matches", pattern, text)

    def _literal(self, what: str, expr: Expr) -> str:
        if not _is_text(expr):
            raise self._error(f"{what} must be a literal: a computed one has no bound", expr)
        return expr.const_expr.string_value

    def _ensure_works(self, probe: str, expr: Expr, literal: str) -> None:
        answer = _PROBES[probe].eval(data={"request.path": literal}).value()
        if isinstance(answer, str):
            raise self._error(answer.partition(": ")[2], expr)

    def _spend(self, what: str, expr: Expr) -> None:
        self._spent[what] += 1
        if self._spent[what] > _MAX_OF[what]:
            raise self._error(f"a condition may have {_MAX_OF[what]} {what} at most", expr)

    def _error(self, what: str, expr: Expr) -> ConditionError:
        return ConditionError(what, self._positions.get(expr.id, 0))


def _is_text(expr: Expr) -> bool:
    return expr.const_expr.HasField("string_value")


def _is_constant(expr: Expr) -> bool:
    """A constant, or a list or map of constants."""
    if expr.WhichOneof("expr_kind") in ("list_expr", "struct_expr"):
        return all(_is_constant(child) for child, _ in _children(expr))
    return expr.WhichOneof("expr_kind") == "const_expr"


def _walks(expr: Expr) -> bool:
    """Reads every member of a list, if it is one (which the type checker often cannot know)."""
    function, arguments = expr.call_expr.function, expr.call_expr.args
    if function == "@in":
        return not _is_constant(arguments[1])
    return function in ("_==_", "_!=_") and not any(map(_is_constant, arguments))


def _collected(expr: Expr) -> list[tuple[Expr, bool]]:
    """The member that map and filter collect with `@result + [member]`. The rest is CEL's, not the author's."""
    if expr.call_expr.function == "_+_" and expr.call_expr.args[0].ident_expr.name == _ACCUMULATOR:
        return [(member, True) for member in expr.call_expr.args[1].list_expr.elements]
    return []


def _member(expr: Expr) -> tuple[str, str] | None:
    """(map, key) where one member of a map is read: `map.key`, `has(map.key)`, `map['key']`, `'key' in map`."""
    if expr.select_expr.operand.ident_expr.name in MAPS:
        return expr.select_expr.operand.ident_expr.name, expr.select_expr.field
    call = expr.call_expr
    if call.function in ("_[_]", "@in"):
        key, container = call.args if call.function == "@in" else reversed(call.args)
        if container.ident_expr.name in MAPS and _is_text(key):
            return container.ident_expr.name, key.const_expr.string_value
    return None


def _children(expr: Expr) -> Iterator[tuple[Expr, bool]]:
    """Each with whether it runs once per member of a list."""
    match expr.WhichOneof("expr_kind"):
        case "comprehension_expr":
            yield expr.comprehension_expr.iter_range, False
            yield expr.comprehension_expr.loop_condition, True
            yield expr.comprehension_expr.loop_step, True
            yield expr.comprehension_expr.result, False
        case "select_expr":
            yield expr.select_expr.operand, False
        case "call_expr":
            yield expr.call_expr.target, False
            yield from ((argument, False) for argument in expr.call_expr.args)
        case "list_expr":
            yield from ((element, False) for element in expr.list_expr.elements)
        case "struct_expr":
            yield from ((part, False) for entry in expr.struct_expr.entries for part in (entry.map_key, entry.value))
