"""Structural differences as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby

from ext_authz.policy.source import Source
from ext_authz.policytool.structure import Change, PartDifference

_DEFAULT = "as by default"


def lines(differences: Iterable[PartDifference], environment: Mapping[str, str]) -> Iterator[str]:
    """By section. `environment`: what must be shown by its name only."""
    masked = partial(_masked, environment=environment)
    for section, parts in groupby(differences, key=lambda part: part.section):
        yield section
        for part in parts:
            yield f"  {part.change} {part.name}".rstrip()
            for name, (old, new) in part.fields.items():
                yield f"      {name}: {_told(part.change, masked(old), masked(new))}"


def substituted(sources: Iterable[Source], environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that these policies refer to."""
    names = {name for source in sources for names in source.substituted.values() for name in names}
    return {name: environ[name] for name in names if name in environ}


def _masked(text: str, environment: Mapping[str, str]) -> str:
    for name, value in sorted(environment.items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"${{{name}}}") if value else text
    return text


def _told(change: Change, old: str, new: str) -> str:
    if change is not Change.CHANGED:
        return old or new
    if old == new:
        return "another value from the environment"
    return f"{old or _DEFAULT}  ->  {new or _DEFAULT}"
