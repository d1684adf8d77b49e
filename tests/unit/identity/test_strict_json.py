"""JSON that two readers could read differently is not read at all."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.identity.strict_json import MAX_DEPTH, parse_object


def nested(depth: int) -> bytes:
    """An object that is `depth` brackets deep."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


REFUSED = {
    "nothing": b"",
    "an array": b"[]",
    "a string": b'"{}"',
    "null": b"null",
    "two objects": b"{}{}",
    "a repeated name": b'{"sub":"alice","sub":"bob"}',
    "a repeated name, escaped": b'{"sub":"alice","s\\u0075b":"bob"}',
    "a repeated name, inside": b'{"a":{"b":1,"b":2}}',
    "a repeated name, inside an array": b'{"a":[{"b":1,"b":1}]}',
    "NaN": b'{"exp":NaN}',
    "Infinity": b'{"exp":Infinity}',
    "minus Infinity": b'{"exp":-Infinity}',
    "a number past the range": b'{"exp":1e400}',
    "5000 digits": b'{"exp":' + b"9" * 5000 + b"}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "not UTF-8": b'{"a":"\xff"}',
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "an overlong slash": b'{"a":"\xc0\xaf"}',
    "a control character": b'{"a":"\x00"}',
    "a comment": b"{/**/}",
    "a trailing comma": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "one level too deep": nested(MAX_DEPTH + 1),
    "5 000 levels": nested(5000),
    "5 000 levels, never closed": b'{"a":' + b"[" * 5000,
    "deep behind brackets in a string": b'{"s":"]]]]]]]]]]","a":' + b"[" * 100 + b"]" * 100 + b"}",
    "deep behind an escaped quote": b'{"s":"\\"]]]]]]]]]]","a":' + b"[" * 100 + b"]" * 100 + b"}",
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for nobody
        parse_object(REFUSED[case])


def test_the_deepest_passes() -> None:
    assert parse_object(nested(MAX_DEPTH))["a"]
    assert parse_object(b'{"b":[],' + nested(MAX_DEPTH)[1:])["a"]


def test_many_brackets_are_not_deep() -> None:
    wide = {"a": [[n] for n in range(200)], "text": "[" * 200 + '"' + "{" * 200}
    assert parse_object(json.dumps(wide).encode()) == wide


def test_quotes_cost_no_more_than_their_length() -> None:
    """Every escaped quote could make a backtracking expression start anew: seconds for one token."""
    started = time.process_time()
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        parse_object(b"{[" * 20 + b'"' + b'\\"' * 120_000)
    assert time.process_time() - started < 0.5


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _values, max_size=4))
@settings(max_examples=50)
def test_reads_what_json_reads(value: dict[str, object]) -> None:
    assert parse_object(json.dumps(value).encode()) == value
