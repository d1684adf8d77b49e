"""Path templates, and the tree in which the most specific one for a path is found.

Segment by segment a literal comes first, then `{name}:verb`, then `{name}`, then `{rest=**}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from ext_authz.policy.model import Route

PLACEHOLDER = re.compile(r"\{[a-z_]{1,32}\}", re.ASCII)
VERB = re.compile(r"\{[a-z_]{1,32}\}:([A-Za-z0-9_-]{1,32})", re.ASCII)
"""A custom method at the end of a path, as in `/v1/models/{model}:predict`."""
REST = re.compile(r"\{[a-z_]{1,32}=\*\*\}", re.ASCII)

_ByMethod = dict[str, list[Route]]
_NOWHERE: Mapping[str, list[Route]] = {}


class Node(Struct):
    """The routes below some segments. Lists: routes that differ by their headers only, most headers first."""

    literals: dict[str, Node] = field(default_factory=dict)
    verbs: dict[str, Node] = field(default_factory=dict)
    """By what follows the colon: one segment that ends with it, at the end of a path."""
    placeholder: Node | None = None
    rest: _ByMethod = field(default_factory=dict)
    """By method: the templates that match one or more further segments."""
    ending: _ByMethod = field(default_factory=dict)
    """By method: the templates that end here."""
    slashed: _ByMethod = field(default_factory=dict)
    """By method: the templates that end here with a slash."""


def grown(node: Node, path: str) -> _ByMethod:
    """The routes of a template by method; its nodes are created where they are missing."""
    for segment in path[1:].split("/"):
        if REST.fullmatch(segment):
            return node.rest
        if not segment:
            return node.slashed
        if PLACEHOLDER.fullmatch(segment):
            node.placeholder = node = node.placeholder or Node()
        elif verb := VERB.fullmatch(segment):
            node = node.verbs.setdefault(verb[1], Node())
        else:
            node = node.literals.setdefault(segment, Node())
    return node.ending


def closest(root: Node, segments: Sequence[str]) -> Mapping[str, list[Route]] | None:
    """By method: the routes of the most specific template for this path, empty where its spelling differs.

    None: there is no such template.
    """
    slashed = not segments[-1]
    return _walk(root, segments[:-1] if slashed else segments, 0, slashed=slashed)


def _walk(node: Node, segments: Sequence[str], at: int, *, slashed: bool) -> Mapping[str, list[Route]] | None:
    if at == len(segments):
        taking = node.slashed if slashed else node.ending
        return taking if node.ending or node.slashed or node.rest else None
    segment = segments[at]
    literal = node.literals.get(segment)
    found = _walk(literal, segments, at + 1, slashed=slashed) if literal else None
    if found is None and node.verbs and at + 1 == len(segments):
        found = _with_verb(node, segment, slashed=slashed)
    if found is None and node.placeholder:
        found = _walk(node.placeholder, segments, at + 1, slashed=slashed)
    return found if found is not None else node.rest or None


def _with_verb(node: Node, segment: str, *, slashed: bool) -> Mapping[str, list[Route]] | None:
    """No wider route serves what ends with the verb: `m:other:predict` and `:predict` are spellings of no name."""
    value, _, verb = segment.rpartition(":")
    found = node.verbs.get(verb) if ":" in segment else None
    if found is None:
        return None
    return _NOWHERE if slashed or not value or ":" in value else found.ending


def overlap(one: str, other: str) -> bool:
    """Whether a path may match both templates; of two verbs that is assumed."""
    segments, others = one[1:].split("/"), other[1:].split("/")
    for each, against in zip(segments, others, strict=False):
        if REST.fullmatch(each) or REST.fullmatch(against):
            return True
        if each != against and "{" not in each + against:
            return False
    return len(segments) == len(others)


def is_inside(narrow: str, wide: str) -> bool:
    """Whether every path that matches the one template matches the other."""
    inner, outer = narrow[1:].split("/"), wide[1:].split("/")
    for each, against in zip(inner, outer, strict=False):
        if REST.fullmatch(against):
            return True
        if REST.fullmatch(each) or (each != against and not PLACEHOLDER.fullmatch(against)):
            return False
    return len(inner) == len(outer)


def value_of(placeholder: str, template: str, segments: Sequence[str]) -> str:
    """The segment for `{model}` or `{version}`, without its verb; empty where the template does not name it."""
    if placeholder not in template:
        return ""
    for own, segment in zip(template[1:].split("/"), segments, strict=False):
        if own == placeholder:
            return segment
        if own.startswith(f"{placeholder}:"):
            return segment.rpartition(":")[0]
    return ""
