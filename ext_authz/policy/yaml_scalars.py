"""What an unquoted word of YAML is: the YAML 1.2 core schema, with numbers as JSON writes them.

So `no`, `on`, `010`, `0x1F`, `1:30`, `2026-01-01`, `.inf` and `=` are the text they look like; YAML 1.1 makes booleans,
octal and sexagesimal numbers and dates of them.
"""

from __future__ import annotations

import math
import re

from ext_authz.policy.yaml_tree import Value

_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<real>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)", re.ASCII)
_LONGEST_NUMBER = 18
"""Characters: what fits into 64 bits, whoever reads it."""


def resolved(text: str) -> Value:
    """The value of a plain scalar.

    Raises:
        ValueError: a number too long or too large to be kept as it is written.
    """
    if text in _WORDS:
        return _WORDS[text]
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number has more than {_LONGEST_NUMBER} characters")
    if not found["real"]:
        return int(text)
    number = float(text)
    if math.isinf(number):
        raise ValueError("the number is too large")
    return number
