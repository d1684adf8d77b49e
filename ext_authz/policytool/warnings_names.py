"""Warnings about names that are defined and never used, or used once and nearly as another."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.models import PermissionDocument
from ext_authz.policy.faults import Step, shown
from ext_authz.policytool.warning import Warned

_Path = tuple[Step, ...]
_NEAR = 0.85
"""How alike two roles must be for one of them to be a slip: `tester` and `testers` are."""


def of(document: PolicyDocument) -> Iterator[Warned]:
    """All of them."""
    used = {name for route in document.routes for name in route.limits}
    for name in document.limits:
        if name not in used:
            what = f"no route uses the limit {shown(name)}"
            yield Warned(("limits", name), "unused_limit", what, "name it under limits of a route, or remove it")
    planned = {plan for limit in document.limits.values() for plan in limit.plans or {}}
    for plan in document.plans:
        if plan not in planned:
            what = f"no limit has a rate for the plan {shown(plan)}"
            yield Warned(("plans", plan), "unused_plan", what, "give it a rate under plans of a limit, or remove it")
    yield from _slips(document)


def _slips(document: PolicyDocument) -> Iterator[Warned]:
    places: defaultdict[str, list[_Path]] = defaultdict(list)
    for path, role in _roles(document):
        places[role].append(path)
    for role, paths in places.items():
        others = [other for other in places if other != role and _first(places, other, role)]
        near = difflib.get_close_matches(role, others, n=1, cutoff=_NEAR) if len(paths) == 1 else []
        if near:
            what = f"the role {shown(role)} stands nowhere else, and is nearly {shown(near[0])}"
            yield Warned(paths[0], "role_nearly_known", what, f"did you mean {shown(near[0])}?")


def _first(places: dict[str, list[_Path]], other: str, role: str) -> bool:
    """Of two that stand once each, only the later is the slip."""
    return len(places[other]) > 1 or list(places).index(other) < list(places).index(role)


def _roles(document: PolicyDocument) -> Iterator[tuple[_Path, str]]:
    for index, route in enumerate(document.routes):
        yield from _granted(("routes", index), route.roles, [("permission", route.permission)])
    for name, model in document.models.items():
        rights = [("call", model.call), ("see", model.see), ("administer", model.administer)]
        yield from _granted(("models", name), model.roles, rights)
        for version, narrowing in model.versions.items():
            rights = [("call", narrowing.call), ("see", narrowing.see), ("administer", narrowing.administer)]
            yield from _granted(("models", name, "versions", version), None, rights)
    for name, plan in document.plans.items():
        yield from _granted(("plans", name), plan.roles, [])
    for name, experiment in document.experiments.items():
        if experiment.override is not None:
            yield from _granted(
                ("experiments", name, "override"), None, [("permission", experiment.override.permission)]
            )


def _granted(
    path: _Path, roles: Iterable[str] | None, permissions: Iterable[tuple[str, PermissionDocument | None]]
) -> Iterator[tuple[_Path, str]]:
    for role in sorted(roles or ()):
        yield (*path, "roles"), role
    for key, permission in permissions:
        if permission is not None:
            yield from _in((*path, key), permission)


def _in(path: _Path, permission: PermissionDocument) -> Iterator[tuple[_Path, str]]:
    if permission.role is not None:
        yield (*path, "role"), permission.role
    if permission.not_ is not None:
        yield from _in((*path, "not"), permission.not_)
    for key, parts in (("any", permission.any), ("all", permission.all)):
        for index, part in enumerate(parts or ()):
            yield from _in((*path, key, index), part)
