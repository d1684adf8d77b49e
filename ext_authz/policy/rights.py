"""Permissions as trees, and the rights to call, see and administer models; compiled.

Only data: `ext_authz/phases/permission.py` reads it against a verified caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from ext_authz.policy.kserve import Right

_REMEMBERED = 4096
MODEL_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,128}", re.ASCII)
"""A name of a model, or a pattern of names."""


class Trait(StrEnum):
    """What a permission can require of a caller."""

    ROLE = "role"
    SCOPE = "scope"
    GROUP = "group"
    PRINCIPAL = "principal"
    """`sub`."""
    CLIENT = "client"
    """`azp`."""


class Has(Struct, frozen=True):
    """The caller has at least one of these."""

    trait: Trait
    values: frozenset[str]


class AnyOf(Struct, frozen=True):
    """At least one; without parts, it is never granted."""

    parts: tuple[Permission, ...]


class AllOf(Struct, frozen=True):
    """All of them; without parts, every verified caller has it."""

    parts: tuple[Permission, ...]


class Not(Struct, frozen=True):
    """Everyone without it."""

    part: Permission


Permission = Has | AnyOf | AllOf | Not

EVERYONE: Permission = AllOf(())
"""Every verified caller."""
NOBODY: Permission = AnyOf(())


def named(tree: Permission, trait: Trait) -> frozenset[str]:
    """The names of this kind that can be of use: one that nobody may have is none."""
    match tree:
        case Has():
            return tree.values if tree.trait is trait else frozenset()
        case Not():
            return frozenset()
    return frozenset().union(*(named(part, trait) for part in tree.parts))


class Predictions(Struct, frozen=True, eq=False):
    """What is kept of the predictions of a model."""

    inputs: Literal["none", "hashed", "full"]
    keep: int
    """Seconds."""
    readers: Permission


class ModelRule(Struct, frozen=True, eq=False):
    """One entry under `models:`, with every default filled in."""

    name: str
    """As written: a name, or a pattern with `*`."""
    rights: Mapping[Right, Permission]
    """All three."""
    versions: Mapping[str, Mapping[Right, Permission]] = {}
    """Version to what it requires *besides* `rights`; a right that is not in it is not narrowed."""
    predictions: Predictions | None = None
    """None: none are kept."""


class ModelRules:
    """Finds the one rule of a model: its own, or the pattern with the most literal characters."""

    def __init__(self, rules: Iterable[ModelRule]) -> None:
        """`rules`: no two of equal precedence match one name; `compile_models.py` ensures it."""
        self.all = tuple(rules)
        self._named = {rule.name: rule for rule in self.all if "*" not in rule.name}
        patterns = sorted((rule for rule in self.all if "*" in rule.name), key=lambda rule: -literal_length(rule.name))
        self._patterns = tuple((_regex(rule.name), rule) for rule in patterns)
        self._remembered: dict[str, ModelRule | None] = {}

    def rule(self, model: str) -> ModelRule | None:
        """None: the policy does not name the model, and no caller has a right on it."""
        rule = self._named.get(model)
        return rule if rule is not None or not self._patterns else self._by_pattern(model)

    def _by_pattern(self, model: str) -> ModelRule | None:
        if model in self._remembered:
            return self._remembered[model]
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        rule = next((rule for regex, rule in self._patterns if regex.fullmatch(model)), None)
        self._remembered[model] = rule
        return rule


class ModelNames(Struct, frozen=True, eq=False):
    """The models that a token is limited to."""

    written: tuple[str, ...]
    """Names, and patterns with `*`."""

    def __contains__(self, name: str) -> bool:
        """Of a pattern: whether everything that matches it is in here. A `*` in it is a character that only a `*`
        can match, and whatever else stands there would match as well."""
        return name in self.written or any(
            _pattern(each).fullmatch(name) is not None for each in self.written if "*" in each
        )

    def __str__(self) -> str:
        return ", ".join(self.written) or "none"


def literal_length(pattern: str) -> int:
    """How specific a pattern is."""
    return len(pattern) - pattern.count("*")


@lru_cache(maxsize=_REMEMBERED)
def _pattern(text: str) -> re.Pattern[str]:
    return _regex(text)


def _regex(pattern: str) -> re.Pattern[str]:
    """Each part matches where it first can and nowhere else, so that matching is linear in the name."""
    first, *middle, last = map(re.escape, pattern.split("*"))
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last, re.DOTALL)
