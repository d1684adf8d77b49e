"""What two policies say differently, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from msgspec import Struct

from ext_authz.policy.model import LimitRule, Policy, Route
from ext_authz.policy.rights import ModelRule
from ext_authz.policytool.words import fields_in_words, in_words

Said = Mapping[str, str]
"""By field: what a part says, in words."""


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


def structural_differences(old: Policy, new: Policy) -> tuple[PartDifference, ...]:
    """In the order of a policy file."""
    before, after = _parts(old), _parts(new)
    sections = list(dict.fromkeys(section for section, _ in (*after, *before)))
    places = sorted(dict.fromkeys((*before, *after)), key=lambda place: sections.index(place[0]))
    return tuple(
        _difference(place, before.get(place), after.get(place))
        for place in places
        if before.get(place) != after.get(place)
    )


def _difference(place: tuple[str, str], old: Said | None, new: Said | None) -> PartDifference:
    change = Change.ADDED if old is None else Change.REMOVED if new is None else Change.CHANGED
    old, new = old or {}, new or {}
    fields = {
        name: (old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    }
    return PartDifference(*place, change, fields)


def _parts(policy: Policy) -> dict[tuple[str, str], Said]:
    return {(section, name): said for section, name, said in _all(policy)}


def _all(policy: Policy) -> Iterator[tuple[str, str, Said]]:
    yield from _named("issuers", policy.issuers)
    yield from _named("plans", policy.plans)
    for rule in policy.limits.values():
        yield "limits", rule.name, _limit(rule)
    if policy.flood:
        yield "flood", "", fields_in_words(policy.flood)
    for model in policy.models.all:
        yield "models", model.name, _model(model)
    for route in policy.routes:
        yield "routes", route.name, _route(route, policy)
    yield from _named("experiments", policy.experiments.values())
    yield "failure", "", fields_in_words(policy.failure)
    yield "responses", "", fields_in_words(policy.responses)
    whole = {"realm": policy.realm, "trusted_hops": policy.trusted_hops, "explain.keep": f"{policy.explain_keep}s"}
    yield "policy", "", {name: in_words(value) for name, value in whole.items()}


def _named(section: str, parts: Iterable[Struct]) -> Iterator[tuple[str, str, Said]]:
    for part in parts:
        said = fields_in_words(part)
        yield section, said.pop("name"), said


def _route(route: Route, policy: Policy) -> Said:
    """What the whole policy says of failures is told once, not for every route."""
    said = fields_in_words(route)
    del said["name"]
    if route.failure == policy.failure:
        said.pop("failure", None)
    return said


def _limit(rule: LimitRule) -> Said:
    rates = {f"rate for {plan}": in_words(limit) for plan, limit in rule.by_plan.items()}
    return rates | {"cost": in_words(rule.cost), "dry_run": in_words(rule.dry_run)}


def _model(rule: ModelRule) -> Said:
    said = {right.value: in_words(permission) for right, permission in rule.rights.items()}
    for version, narrowing in rule.versions.items():
        said |= {f"{right} version {version}": in_words(permission) for right, permission in narrowing.items()}
    return said
