"""What two compiled policies contain differently, part by part, and the lines that are printed of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, StrEnum
from functools import partial
from itertools import groupby

from msgspec import Struct
from msgspec.structs import fields

from ext_authz.phases.access import described
from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.model import Algorithm, Limit, LimitRule, Policy, Route
from ext_authz.policy.rights import EVERYONE, NOBODY, AllOf, AnyOf, Has, ModelRule, Not, Permission
from ext_authz.policy.source import Source

Part = Mapping[str, str]
"""By field: its value as text. Equal parts have equal texts."""

_PERIODS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}
_DEFAULT = "as by default"


class Change(StrEnum):
    """The sign in front of a part."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


class PartDifference(Struct, frozen=True):
    """One part that only one of the policies has, or both and differently."""

    section: str
    name: str
    change: Change
    fields: dict[str, tuple[str, str]] = {}
    """Before and after; empty where it was not there."""


def differences(old: Policy, new: Policy) -> tuple[PartDifference, ...]:
    """In the order of a policy file."""
    before, after = dict(_parts(old)), dict(_parts(new))
    sections = list(dict.fromkeys(section for section, _ in (*after, *before)))
    places = sorted(dict.fromkeys((*before, *after)), key=lambda place: sections.index(place[0]))
    return tuple(
        _difference(place, before.get(place), after.get(place))
        for place in places
        if before.get(place) != after.get(place)
    )


def lines(found: Iterable[PartDifference], environment: Mapping[str, str]) -> Iterator[str]:
    """By section. `environment`: what must be shown by its name only."""
    masked = partial(_masked, environment=environment)
    for section, parts in groupby(found, key=lambda part: part.section):
        yield section
        for part in parts:
            yield f"  {part.change} {part.name}".rstrip()
            for name, (old, new) in part.fields.items():
                yield f"      {name}: {_change(part.change, masked(old), masked(new))}"


def substituted(sources: Iterable[Source], environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that these policies refer to."""
    names = {name for source in sources for names in source.substituted.values() for name in names}
    return {name: environ[name] for name in names if name in environ}


def _masked(text: str, environment: Mapping[str, str]) -> str:
    for name, value in sorted(environment.items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"${{{name}}}") if value else text
    return text


def _change(change: Change, old: str, new: str) -> str:
    if change is not Change.CHANGED:
        return old or new
    if old == new:
        return "another value from the environment"
    return f"{old or _DEFAULT}  ->  {new or _DEFAULT}"


def _difference(place: tuple[str, str], old: Part | None, new: Part | None) -> PartDifference:
    change = Change.ADDED if old is None else Change.REMOVED if new is None else Change.CHANGED
    old, new = old or {}, new or {}
    changed = {
        name: (old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    }
    return PartDifference(*place, change, changed)


def _parts(policy: Policy) -> Iterator[tuple[tuple[str, str], Part]]:
    """By section and name."""
    yield from _named("issuers", policy.issuers)
    yield from _named("plans", policy.plans)
    for rule in policy.limits.values():
        yield ("limits", rule.name), _limit(rule)
    if policy.flood:
        yield ("flood", ""), _fields(policy.flood)
    for model in policy.models.all:
        yield ("models", model.name), _model(model)
    for route in policy.routes:
        yield ("routes", route.name), _route(route, policy)
    yield from _named("experiments", policy.experiments.values())
    yield ("failure", ""), _fields(policy.failure)
    yield ("responses", ""), _fields(policy.responses)
    if policy.resource:
        yield ("resource", ""), _fields(policy.resource)
    if policy.tokens:
        yield ("tokens", ""), _fields(policy.tokens)
    if policy.cors:
        yield ("cors", ""), _fields(policy.cors)
    whole = {"realm": policy.realm, "trusted_hops": policy.trusted_hops, "explain.keep": f"{policy.explain_keep}s"}
    whole["explain.usernames"] = policy.explain_usernames
    yield ("policy", ""), {name: _text(value) for name, value in whole.items()}


def _named(section: str, parts: Iterable[Struct]) -> Iterator[tuple[tuple[str, str], Part]]:
    for part in parts:
        found = _fields(part)
        yield (section, found.pop("name")), found


def _route(route: Route, policy: Policy) -> Part:
    """What the whole policy states of failures is shown once, not for every route."""
    found = _fields(route)
    del found["name"]
    if route.failure == policy.failure:
        found.pop("failure", None)
    return found


def _limit(rule: LimitRule) -> Part:
    rates = {f"rate for {plan}": _text(limit) for plan, limit in rule.by_plan.items()}
    return rates | {"cost": _text(rule.cost), "dry_run": _text(rule.dry_run)}


def _model(rule: ModelRule) -> Part:
    found = {right.value: _permission(permission) for right, permission in rule.rights.items()}
    for version, narrowing in rule.versions.items():
        found |= {f"{right} version {version}": _permission(permission) for right, permission in narrowing.items()}
    return found


def _fields(value: Struct) -> dict[str, str]:
    """Every field that has not its default value."""
    found = {field.encode_name: (getattr(value, field.name), field.default) for field in fields(value)}
    return {name: _text(each) for name, (each, default) in found.items() if each != default}


def _text(value: object) -> str:
    """One line."""
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case Condition() | Amount():
            return value.text
        case Struct():
            return _struct(value)
        case Mapping():
            return ", ".join(f"{_text(key)}: {_text(each)}" for key, each in value.items()) or "none"
        case frozenset() | tuple():
            texts = map(_text, value)
            return ", ".join(sorted(texts) if isinstance(value, frozenset) else texts) or "none"
    return str(value)


def _struct(value: Struct) -> str:
    match value:
        case Has() | AnyOf() | AllOf() | Not():
            return _permission(value)
        case LimitRule():
            return value.name
        case Limit():
            return _rate(value)
    return ", ".join(f"{name} {text}" for name, text in _fields(value).items()) or _DEFAULT


def _rate(limit: Limit) -> str:
    period = limit.period or _PERIODS.get(limit.window, f"{limit.window} s")
    algorithm = "" if limit.algorithm is Algorithm.FIXED_WINDOW else f" by {limit.algorithm.name.lower()}"
    burst = f" with {limit.burst} at once" if limit.burst else ""
    return f"{limit.limit} per {period} for each {' and '.join(limit.key)}{algorithm}{burst}"


def _permission(node: Permission) -> str:
    """The whole tree, with brackets where it would be ambiguous."""
    match node:
        case AnyOf(parts=parts) if node != NOBODY:
            return " or ".join(map(_bracketed, parts))
        case AllOf(parts=parts) if node != EVERYONE:
            return " and ".join(map(_bracketed, parts))
        case Not(part=part):
            return f"not {_bracketed(part)}"
    return described(node)


def _bracketed(node: Permission) -> str:
    text = _permission(node)
    return f"({text})" if " or " in text or " and " in text else text
