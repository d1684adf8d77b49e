"""`${NAME}` in the values of a policy: a reference to the environment, so that secrets stay out of the file.

There is no `${NAME:-default}`: a misspelt name would take the default in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_authz.policy.bounds import Budget
from ext_authz.policy.faults import shown

_REFERENCE = re.compile(
    r"\$(?:\$\{ | \{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\} | (?P<wrong>\{[^}]*\}?))", re.ASCII | re.VERBOSE
)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.ASCII)  # tells nothing, and messages about URLs are full of it
_SHORTEST_RUN = 4
MASK = "***"


class WrongReference(Exception):
    """`args` are the code, what is wrong, and the hint."""


def substituted(text: str, environ: Mapping[str, str], budget: Budget) -> tuple[str, tuple[str, ...]]:
    """The text with its references replaced, and their names. `$${` stands for `${`.

    Raises:
        WrongReference: malformed, not set, or too much text.
    """
    names: list[str] = []

    def value(found: re.Match[str]) -> str:
        if found["wrong"]:
            raise WrongReference("wrong_reference", f"{shown(found[0])} is not a reference to the environment", _HINT)
        name = found["name"]
        if name is None:
            return "${"
        names.append(name)
        return _taken(name, environ, budget)

    return _REFERENCE.sub(value, text), tuple(dict.fromkeys(names))


_HINT = "write ${NAME}, without a default; a literal ${ is written $${"


def _taken(name: str, environ: Mapping[str, str], budget: Budget) -> str:
    if name not in environ:
        raise WrongReference("unset_variable", f"the environment variable {name} is not set", f"set {name}")
    value = environ[name]
    budget.substituted_left -= len(value)
    if budget.substituted_left < 0:
        most = f"at most {budget.bounds.substituted} characters come from the environment"
        raise WrongReference("too_large", "the environment variables are too long together", most)
    return value


def masked(text: str, secrets: list[str]) -> str:
    """The text with every run of four characters or more that also stands in a secret blotted out.

    For messages that somebody else wrote and that may quote, cut or lower a value.
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
    return _blotted(text, hidden)


def _folded(text: str) -> str:
    return "".join(char.lower()[0] for char in text)  # one for one, so that places stay the same


def _blotted(text: str, hidden: bytearray) -> str:
    kept: list[str] = []
    for char, is_hidden in zip(text, hidden, strict=True):
        if not is_hidden:
            kept.append(char)
        elif not kept or kept[-1] is not MASK:
            kept.append(MASK)
    return "".join(kept)
