"""`${NAME}` in the values of a policy: a reference to the environment, so that secrets stay out of the file.

There is no `${NAME:-default}`: a misspelt name would silently take the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_authz.policy.faults import shown

_REFERENCE = re.compile(
    r"\$(?:\$\{ | \{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\} | (?P<wrong>\{[^}]*\}?))", re.ASCII | re.VERBOSE
)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.ASCII)  # no secret, and messages about URLs are full of it
_HINT = "write ${NAME}, without a default; a literal ${ is written $${"
_SHORTEST_RUN = 4
MAX_SUBSTITUTED = 65_536
"""Characters from the environment in one value."""
MASK = "***"


class WrongReference(Exception):
    """`args` are the code, what is wrong, and the hint."""


def substituted(text: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The text with its references replaced, and their names. `$${` stands for `${`.

    Raises:
        WrongReference: malformed, not set, or too much text.
    """
    names: list[str] = []
    length = 0

    def value(found: re.Match[str]) -> str:
        nonlocal length
        if found["wrong"]:
            raise WrongReference("wrong_reference", f"{shown(found[0])} is not a valid reference", _HINT)
        name = found["name"]
        if name is None:
            return "${"
        if name not in environ:
            raise WrongReference("unset_variable", f"the environment variable {name} is not set", f"set {name}")
        names.append(name)
        length += len(environ[name])
        if length > MAX_SUBSTITUTED:
            hint = f"at most {MAX_SUBSTITUTED} characters of one value may come from the environment"
            raise WrongReference("too_large", "the environment variables of this value are too long", hint)
        return environ[name]

    return _REFERENCE.sub(value, text), tuple(dict.fromkeys(names))


def masked(text: str, secrets: list[str]) -> str:
    """The text with every run of four characters or more that is also in a secret replaced by `***`.

    For messages of libraries and validators, which may quote, cut or lower a value.
    """
    folded = _folded(text)
    hidden = bytearray(len(text))
    for secret in (_SCHEME.sub("", _folded(secret), count=1) for secret in secrets):
        run = _SHORTEST_RUN
        if len(secret) < run:
            for found in re.finditer(rf"(?<!\w){re.escape(secret)}(?!\w)", folded) if secret else ():
                hidden[found.start() : found.end()] = b"\1" * len(secret)
            continue
        runs = {secret[start : start + run] for start in range(len(secret) - run + 1)}
        for start in range(len(text) - run + 1):
            if folded[start : start + run] in runs:
                hidden[start : start + run] = b"\1" * run
    return _with_masks(text, hidden)


def _folded(text: str) -> str:
    return "".join(char.lower()[0] for char in text)  # one for one, so that positions stay the same


def _with_masks(text: str, hidden: bytearray) -> str:
    kept: list[str] = []
    for char, is_hidden in zip(text, hidden, strict=True):
        if not is_hidden:
            kept.append(char)
        elif not kept or kept[-1] is not MASK:
            kept.append(MASK)
    return "".join(kept)
