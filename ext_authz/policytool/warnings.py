"""What is valid in a policy and dangerous all the same: each with a stable code and its place."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from urllib.parse import urlsplit

from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.base import seconds
from ext_authz.policy.documents.issuers import IssuerDocument
from ext_authz.policy.documents.models import PermissionDocument
from ext_authz.policy.documents.routes import FailureDocument
from ext_authz.policy.faults import Fault, Severity, Step, dotted, fault_at, shown
from ext_authz.policy.load import Loaded
from ext_authz.policytool.warnings_routes import Warned, route_warnings

_Path = tuple[Step, ...]
_NEAR = 0.85
"""How alike two roles must be for one of them to be a slip: `tester` and `testers` are."""
_LONG_LEEWAY = 30
_DEPENDS: Mapping[str, tuple[_Path, ...]] = {
    "unused_limit": (("routes",),),
    "unused_plan": (("limits",),),
    "unreached_model": (("routes",), ("models",)),
    "nobody_may_call": (("routes",), ("models",)),
}
"""Warnings that say what is missing, and where it may be if something there is wrong."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_UNKNOWN = {
    "redis": "revocations and limits are not checked",
    "postgres": "revocations may be missed",
    "jwks": "tokens whose keys cannot be fetched are accepted",
}


def warnings_of(loaded: Loaded) -> tuple[Fault, ...]:
    """Sorted by place; of a policy that has faults, those that do not depend on what is wrong in it."""
    source, document, policy = loaded.source, loaded.document, loaded.compiled
    if source is None or document is None or policy is None:
        return ()
    found = chain(route_warnings(document, policy), _names(document), _copies(document), _trust(document))
    wrong = [fault.path for fault in loaded.faults]
    misplaced = any(fault.code == "unknown_key" for fault in loaded.faults)
    return source.quoted(
        fault_at(
            source.position(at.path), source.written(at.path), at.code, at.what, at.hint, severity=Severity.WARNING
        )
        for at in found
        if not any(_is_in(place, path) for place in wrong for path in _rests_on(source.written(at.path), at.code))
        and (at.code not in _DEPENDS or (source.complete and not misplaced))
    )


def _rests_on(path: _Path, code: str) -> tuple[_Path, ...]:
    return (path, *_DEPENDS.get(code, ()))


def _is_in(place: str, path: _Path) -> bool:
    return f"{place}.".startswith(f"{dotted(path)}.")


def _names(document: PolicyDocument) -> Iterator[Warned]:
    """Names that are defined and never used, or used once and nearly as another."""
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
        if "*" in role:
            what = f"the role {shown(role)} is compared as it is written: * does not stand for other letters"
            yield Warned(paths[0], "role_pattern", what, "name each role")
        others = [other for other in places if other != role and _first(places, other, role)]
        near = next((other for other in others if _is_near(role, other)), None) if len(paths) == 1 else None
        if near is not None:
            what = f"the role {shown(role)} is used nowhere else, and is nearly {shown(near)}"
            yield Warned(paths[0], "role_nearly_known", what, f"did you mean {shown(near)}?")


def _is_near(role: str, other: str) -> bool:
    """Also with two letters exchanged, or with other capitals."""
    one, two = role.casefold(), other.casefold()
    return sorted(one) == sorted(two) or difflib.SequenceMatcher(None, one, two).ratio() >= _NEAR


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


def _copies(document: PolicyDocument) -> Iterator[Warned]:
    for name, experiment in document.experiments.items():
        first, to = next(iter(experiment.weights)), experiment.mirror.to if experiment.mirror else ""
        version = experiment.versions.get(to)
        if version and version == experiment.versions.get(first):
            what = f"calls of {shown(first)} are copied to {shown(to)}, which serves the same version {version}"
            hint = "write under versions what each serves, or remove mirror"
            yield Warned(("experiments", name, "mirror", "to"), "mirror_to_same_version", what, hint)


def _trust(document: PolicyDocument) -> Iterator[Warned]:
    """Whom the policy trusts, and what it does while a dependency is away."""
    for index, issuer in enumerate(document.issuers):
        yield from _issuer(("issuers", index), issuer)
        if issuer.cnf == "verify" and document.resource is None:
            what = f"DPoP proofs with tokens of {shown(issuer.name)} are accepted for whatever host a request names"
            hint = "write resource: {url: ...}, the address that callers use"
            yield Warned(("issuers", index, "cnf"), "proofs_for_any_host", what, hint)
        if not issuer.asap:
            yield from _spelling(("issuers", index, "issuer"), issuer, document.issuers[:index])
    yield from _failure(("failure",), document.failure)
    for index, route in enumerate(document.routes):
        if route.keep_token:
            what = f"the application {shown(route.upstream or '')} gets the tokens of its callers, and can use them"
            hint = "remove keep_token once it reads who calls from x-user-id"
            yield Warned(("routes", index, "keep_token"), "token_passed_on", what, hint)
        if route.failure is not None:
            yield from _failure(("routes", index, "failure"), route.failure)


def _issuer(path: tuple[Step, ...], issuer: IssuerDocument) -> Iterator[Warned]:
    if issuer.cnf == "ignore":
        what = f"tokens of {shown(issuer.name)} that are bound to a key are accepted from any bearer"
        yield Warned((*path, "cnf"), "bound_tokens_taken", what, "write cnf: refuse")
    if issuer.asap and issuer.asap.other_subjects:
        what = f"the service {shown(issuer.name)} may act for whomever it names, also where principal: permits a person"
        yield Warned((*path, "asap", "other_subjects"), "service_for_anyone", what, "remove other_subjects")
    url = urlsplit(issuer.issuer)
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        what = f"the issuer {shown(issuer.name)} is an http address: anyone on the network path can issue tokens"
        yield Warned((*path, "issuer"), "http_issuer", what, "use https")
    if seconds(issuer.leeway) > _LONG_LEEWAY:
        what = f"expired tokens of {shown(issuer.name)} are accepted for {issuer.leeway} more"
        yield Warned((*path, "leeway"), "long_leeway", what, f"{_LONG_LEEWAY}s is enough for synchronized clocks")


def _spelling(path: tuple[Step, ...], issuer: IssuerDocument, before: Sequence[IssuerDocument]) -> Iterator[Warned]:
    """`iss` is compared byte by byte, and most issuers write theirs in one way."""
    written = issuer.issuer
    for what, usual in (
        ("ends with a slash", written.rstrip("/")),
        ("has capitals in its host", _low_host(written)),
        ("is the address of a document about it", written.partition("/.well-known/")[0]),
    ):
        if usual != written:
            hint = f"write it as its tokens do: most likely {shown(usual)}"
            yield Warned(path, "issuer_spelling", f"the issuer {shown(written)} {what}", hint)
    if alike := [other.name for other in before if _alike(other.issuer, written)]:
        what = f"the issuers {shown(alike[0])} and {shown(issuer.name)} differ in a slash or in capitals only"
        yield Warned(path, "issuers_alike", what, "keep the one that the tokens have as iss")


def _low_host(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.lower()}{slash}{path}"


def _alike(one: str, other: str) -> bool:
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def _failure(path: tuple[Step, ...], failure: FailureDocument) -> Iterator[Warned]:
    for name, unknown in _UNKNOWN.items():
        if getattr(failure, name) == "allow" and name in failure.model_fields_set:
            what = f"while {name} does not answer, {unknown}"
            yield Warned((*path, name), "failure_allow", what, "write deny, or local, which ends after its grace")
