"""What is wrong with a policy: each fault with its position, and with what to write instead."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from unicodedata import east_asian_width

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from ext_authz.errors import ConfigError, escaped

MORE = "more_faults"
"""The code of the fault that says that there are more."""
MAX_FAULTS = 1000
"""After so many the reading stops."""
_MAX_SHOWN = 64
_MAX_LINE = 80
_MAX_WIDTH = 120
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-[]")

Step = str | int
"""A key of a mapping or an index into a list; a tuple of them is a path into the policy."""


class Position(Struct, frozen=True, gc=False):
    """A position in a file; line and column count from 1."""

    file: Path
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Severity(StrEnum):
    """An error keeps the policy from being used, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Fault(Struct, frozen=True):
    """One fault. The field names are what `policy check --format json` prints: editors and CI read them."""

    severity: Severity
    file: str
    line: int
    column: int
    path: str
    """Dotted, for example `routes.3.limits.0`; empty where the fault is about no value."""
    what: str
    hint: str
    """What to write instead; may be empty."""
    code: str
    """Stable machine name, snake_case."""
    text: str = ""
    """The line of the file; empty where there is none."""


class PolicyFaults(ConfigError):
    """Everything that is wrong, sorted by position; `str()` is one line with the first and how many there are."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = in_order(faults)
        rest = f" (in all {counted(self.faults)})" if self.faults[1:] else ""
        super().__init__(f"{rendered(self.faults[0])}{rest}")


class TooManyFaults(Exception):
    """`MAX_FAULTS` were reported."""


class Faults:
    """Collects the faults of files while they are read."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def report(self, position: Position, path: Sequence[Step], code: str, what: str, hint: str = "") -> None:
        """Raises TooManyFaults."""
        self.found.append(fault_at(position, path, code, what, hint))
        if len(self.found) >= MAX_FAULTS:
            self.found.append(fault_at(position, (), MORE, f"reading stopped after {MAX_FAULTS} errors"))
            raise TooManyFaults


def fault_at(
    position: Position,
    path: Sequence[Step],
    code: str,
    what: str,
    hint: str = "",
    *,
    severity: Severity = Severity.ERROR,
) -> Fault:
    """`what` and `hint`: lower-case, one sentence, no final period, and no value from the environment in them."""
    return Fault(severity, str(position.file), position.line, position.column, dotted(path), what, hint, code)


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Sorted by file and position, each once."""
    return tuple(sorted(dict.fromkeys(faults), key=lambda fault: (fault.file, fault.line, fault.column, fault.what)))


def quoted(faults: Iterable[Fault], texts: Mapping[str, str]) -> tuple[Fault, ...]:
    """The same with the lines of these files in them, in order."""
    lines = {file: text.split("\n") for file, text in texts.items()}
    found = []
    for fault in faults:
        text = lines.get(fault.file, [])[fault.line - 1 : fault.line]
        found.append(replace(fault, text=text[0].rstrip()) if text else fault)
    return in_order(found)


def rendered(fault: Fault) -> str:
    """`file:line:column: error: what (path); hint`, on one line and without terminal control characters."""
    path = f" ({fault.path})" if fault.path else ""
    hint = f"; {fault.hint}" if fault.hint else ""
    return escaped(f"{fault.file}:{fault.line}:{fault.column}: {fault.severity}: {fault.what}{path}{hint}")


def excerpt(fault: Fault) -> tuple[str, ...]:
    """The line of the file, and a line with `^` under the place; nothing where the file has none."""
    if not fault.text.strip():
        return ()
    start = max(0, fault.column - _MAX_LINE)  # a line may have megabytes
    before, after = escaped(fault.text[start : fault.column - 1]), escaped(fault.text[fault.column - 1 :])
    margin = f"{fault.line:>5} | "
    width = sum(2 if east_asian_width(char) in "WF" else 1 for char in before)
    return f"{margin}{before}{after}"[:_MAX_WIDTH], f"{' ' * (len(margin) - 2)}| {' ' * width}^"


def counted(faults: Sequence[Fault]) -> str:
    """`2 errors, 1 warning`, or `good, with 1 warning`."""
    of = Counter(fault.severity for fault in faults if fault.code != MORE)
    found = ", ".join(f"{of[kind]} {kind}{'' if of[kind] == 1 else 's'}" for kind in Severity if of[kind])
    if not of[Severity.ERROR]:
        return f"good, with {found}" if found else "good"
    return f"{found}, and more" if any(fault.code == MORE for fault in faults) else found


def rendered_json(faults: Iterable[Fault]) -> str:
    """A JSON array of objects with the fields of `Fault`."""
    return json.dumps([to_builtins(fault) for fault in faults], indent=2)


def dotted(path: Sequence[Step]) -> str:
    """`routes.3.limits`; a key with a dot or anything unusual is quoted."""
    return ".".join(str(step) if isinstance(step, int) or _is_word(step) else shown(step) for step in path)


def shown(text: str) -> str:
    """A text of the author in a message: quoted, escaped and cut."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def did_you_mean(word: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`did you mean 'x'?`, or nothing when no candidate is similar."""
    if len(word) > _MAX_SHOWN:  # the search is quadratic in the length
        return ""
    by_fold = {candidate.casefold(): candidate for candidate in candidates}
    near = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=cutoff)
    return f"did you mean {shown(by_fold[near[0]])}?" if near else ""


def _is_word(step: str) -> bool:
    return 0 < len(step) <= _MAX_SHOWN and _WORD.issuperset(step)
