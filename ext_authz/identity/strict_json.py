"""JSON with one meaning: no repeated names, no NaN or Infinity, no deep nesting.

Where two parsers may read one document differently, a signed token can mean two things (RFC 8259 section 4).
"""

from __future__ import annotations

import json
import math
import re

MAX_DEPTH = 16

# Strings as a whole (so that brackets inside them do not count), or one bracket. Possessive: linear for any input.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_object(raw: bytes) -> dict[str, object]:
    """One JSON object in UTF-8.

    Raises:
        ValueError: anything else; the message does not quote the content.
    """
    text = raw.decode("utf-8")
    _ensure_shallow(text)
    value: object = _decoder.decode(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - callers handle one type of error for invalid input
    return value


def _ensure_shallow(text: str) -> None:
    """Before parsing: the parser recurses, and the depth of a thread's stack depends on the server."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for found in _STRING_OR_BRACKET.findall(text):
        depth += (found in "[{") - (found in "]}")
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name is repeated")
    return unique


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _no_constant(_: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
