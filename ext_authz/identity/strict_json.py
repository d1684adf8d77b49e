"""JSON with one meaning: no repeated names, no NaN or Infinity, no deep nesting; and base64url with one spelling.

Where two parsers may read one document differently, a signed token can mean two things (RFC 8259 section 4).
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

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


def decode_base64url(segment: str) -> bytes:
    """Characters of the alphabet only, without padding: every other spelling of the same bytes is refused (RFC 4648
    section 3.5).

    Raises:
        ValueError: another spelling, or none.
    """
    encoded = segment.encode("ascii")
    raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    whole = len(encoded) // 4  # groups: with the characters of the alphabet only, each has one spelling
    if urlsafe_b64encode(raw[3 * whole :]).rstrip(b"=") != encoded[4 * whole :]:
        raise ValueError("not canonical base64url")
    return raw


def encode_base64url(raw: bytes) -> str:
    """Without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


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
