"""Phase 3 explained: every node of the permission, the condition, and the right on the model."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.identity.identity import Identity
from ext_authz.phases.permission import has, judged, may, may_all
from ext_authz.policy.kserve import ModelScope, Right
from ext_authz.policy.model import Match
from ext_authz.policy.rights import EVERYONE, NOBODY, AllOf, AnyOf, Has, ModelRule, Not, Permission
from ext_authz.policytool.account import Statement
from ext_authz.policytool.door import Asked


def permission(asked: Asked) -> Iterator[Statement]:
    """What `permission.ensure_permitted` asks, in its order."""
    match, identity = asked.found.match, asked.found.identity
    if match is None or (identity is None and not match.route.public):
        return
    if identity is not None:
        yield tree(identity, match.route.permission, f"permission of the route {match.route.name}")
    yield from _condition(asked, match)
    if identity is not None:
        yield from _right(asked, match, identity)


def tree(identity: Identity, permission: Permission, title: str = "") -> Statement:
    """Every node with its own answer."""
    what, below = described(permission)
    parts = tuple(tree(identity, part) for part in below)
    return Statement(f"{title}: {what}" if title else what, has(identity, permission), parts=parts)


def described(permission: Permission) -> tuple[str, tuple[Permission, ...]]:
    """A node in words, and the nodes below it."""
    if permission in (EVERYONE, NOBODY):
        return ("every verified caller" if permission == EVERYONE else "nobody"), ()
    match permission:
        case Has(trait=trait, values=values):
            return f"{trait} {' or '.join(sorted(values))}", ()
        case AnyOf(parts=parts):
            return "any of", parts
        case AllOf(parts=parts):
            return "all of", parts
        case Not(part=part):
            return "not", (part,)


def _condition(asked: Asked, match: Match) -> Iterator[Statement]:
    found, now = asked.found, asked.now
    verdict = judged(found.identity, match, found.model, found.version, asked.request, now)
    if verdict is not None and match.route.when is not None:
        note = f"no answer: {verdict.error}" if verdict.error else ""
        yield Statement(f"condition: {match.route.when.text}", verdict.value, note)


def _right(asked: Asked, match: Match, identity: Identity) -> Iterator[Statement]:
    right, found, policy = match.right, asked.found, asked.policy
    if match.scope is ModelScope.ONE:
        rule = policy.models.rule(found.model)
        holds = may(identity, right, found.model, found.version, policy)
        version = f" in version {found.version}" if found.version else ""
        what = f"may {right} the model {found.model}{version}"
        if rule is None:
            yield Statement(what, holds, "the policy does not know it")
        else:
            yield Statement(
                what, holds, f"by the rule {rule.name}", tuple(_of_rule(identity, right, rule, found.version))
            )
    elif match.scope is ModelScope.ALL:
        parts = tuple(_of_whole_rule(identity, right, rule) for rule in policy.models.all)
        yield Statement(f"may {right} every model", may_all(identity, right, policy), parts=parts)


def _of_whole_rule(identity: Identity, right: Right, rule: ModelRule) -> Statement:
    parts = tuple(_of_rule(identity, right, rule, ""))
    return Statement(f"model {rule.name}", all(part.holds for part in parts), parts=parts)


def _of_rule(identity: Identity, right: Right, rule: ModelRule, version: str) -> Iterator[Statement]:
    yield tree(identity, rule.rights[right])
    narrowed = {version: rule.versions.get(version, {})} if version else rule.versions
    for name, narrowing in narrowed.items():
        if right in narrowing:
            yield tree(identity, narrowing[right], f"version {name}")
