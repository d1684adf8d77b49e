"""The parts of a compiled policy in words, so that two can be laid side by side."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import singledispatch

from msgspec import Struct
from msgspec.structs import fields

from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.model import Algorithm, Limit, LimitRule
from ext_authz.policy.rights import EVERYONE, NOBODY, AllOf, AnyOf, Has, Not, Permission

_PERIODS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


@singledispatch
def in_words(value: object) -> str:
    """One line; equal parts have equal words."""
    return str(value)


@in_words.register
def _(value: bool) -> str:  # noqa: FBT001 - chosen by this type
    return str(value).lower()


@in_words.register
def _(value: Enum) -> str:
    return str(value.value)


@in_words.register
def _(value: Condition | Amount) -> str:
    return value.text


@in_words.register
def _(value: Mapping) -> str:  # type: ignore[type-arg]  # chosen at run time, where there are no arguments
    return ", ".join(f"{in_words(key)}: {in_words(each)}" for key, each in value.items()) or "none"


@in_words.register
def _(value: frozenset | tuple) -> str:  # type: ignore[type-arg]  # as above
    texts = map(in_words, value)
    return ", ".join(sorted(texts) if isinstance(value, frozenset) else texts) or "none"


@in_words.register
def _(value: Struct) -> str:
    return ", ".join(f"{name} {text}" for name, text in fields_in_words(value).items()) or "as by default"


@in_words.register
def _(value: LimitRule) -> str:
    return value.name


@in_words.register
def _(value: Has | AnyOf | AllOf | Not) -> str:
    return permission(value)


@in_words.register
def _(value: Limit) -> str:
    period = value.period or _PERIODS.get(value.window, f"{value.window} s")
    algorithm = "" if value.algorithm is Algorithm.FIXED_WINDOW else f" by {value.algorithm.name.lower()}"
    burst = f" with {value.burst} at once" if value.burst else ""
    return f"{value.limit} per {period} for each {' and '.join(value.key)}{algorithm}{burst}"


def fields_in_words(value: Struct) -> dict[str, str]:
    """Every field that is not as it would be anyhow."""
    found = {field.encode_name: (getattr(value, field.name), field.default) for field in fields(value)}
    return {name: in_words(each) for name, (each, default) in found.items() if each != default}


def permission(node: Permission) -> str:
    """As one would say it, with brackets where it could be misheard."""
    if node in (EVERYONE, NOBODY):
        return "every verified caller" if node == EVERYONE else "nobody"
    match node:
        case Has(trait=trait, values=values):
            return f"{trait} {' or '.join(sorted(values))}"
        case AnyOf(parts=parts):
            return " or ".join(map(_bracketed, parts))
        case AllOf(parts=parts):
            return " and ".join(map(_bracketed, parts))
        case Not(part=part):
            return f"not {_bracketed(part)}"


def _bracketed(node: Permission) -> str:
    words = permission(node)
    return f"({words})" if " or " in words or " and " in words else words
