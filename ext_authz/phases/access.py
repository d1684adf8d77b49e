"""Whether a permission holds for a caller, and what the caller may do with a model: asked by checks, and by all that
lists or reports what a check would say."""

from __future__ import annotations

from collections.abc import Iterable

from ext_authz.identity.identity import Identity
from ext_authz.phases.context import Trace
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import EVERYONE, NOBODY, AllOf, AnyOf, Has, ModelNames, ModelRule, Permission, Trait


def has(identity: Identity, permission: Permission, trace: Trace | None = None) -> bool:
    """Whether the permission holds for this caller. With a trace every node is evaluated and recorded, the whole in
    `trace` itself; without one, the first node that decides ends it."""
    match permission:
        case Has(trait=trait, values=values):
            holds = not values.isdisjoint(_traits(identity, trait))
        case AnyOf(parts=parts):
            holds = any(_each(identity, parts, trace))
        case AllOf(parts=parts):
            holds = all(_each(identity, parts, trace))
        case _:
            holds = not has(identity, permission.part, trace and trace.add())
    if trace is not None:
        trace.what, trace.holds = trace.what + described(permission), holds
    return holds


def permitted(identity: Identity, permission: Permission, trace: Trace | None = None) -> bool:
    """`has`, of the token and of its owner."""
    return (identity.owner is None or has(identity.owner, permission)) and has(identity, permission, trace)


def described(permission: Permission) -> str:
    """The node alone, for people."""
    if permission in (EVERYONE, NOBODY):
        return "every verified caller" if permission == EVERYONE else "nobody"
    match permission:
        case Has(trait=trait, values=values):
            return f"{trait} {' or '.join(sorted(values))}"
        case AnyOf():
            return "any of"
        case AllOf():
            return "all of"
    return "not"


def may(identity: Identity, right: Right, model: str, version: str, policy: Policy, trace: Trace | None = None) -> bool:
    """Start at deny: without an entry for the model in the policy, nothing is permitted.

    A call that names no version may reach any of them: it takes the right on every version that asks for more.
    """
    rule = policy.models.rule(model)
    if trace:
        note = f"by the rule {rule.name}" if rule else "the policy does not know it"
        trace = trace.add(f"may {right} {model_named(model, version)}", holds=False, note=note)
    within = identity.models is None or _within(identity.models, [model], trace)
    return rule is not None and within and _may(identity, right, rule, version, trace)


def may_all(identity: Identity, right: Right, policy: Policy, trace: Trace | None = None) -> bool:
    """The right on every model of the policy; without models it is never granted."""
    rules, whole = policy.models.all, trace and trace.add(f"may {right} every model")
    within = identity.models is None or _within(identity.models, [rule.name for rule in rules], whole)
    each = (_may(identity, right, rule, "", whole and whole.add(f"model {rule.name}")) for rule in rules)
    holds = bool(rules) and within and all([*each] if whole else each)
    if whole:
        whole.holds = holds
    return holds


def model_named(model: str, version: str) -> str:
    """For people."""
    return f"the model {model}" + (f" in version {version}" if version else "")


def _within(limit: ModelNames, names: Iterable[str], trace: Trace | None) -> bool:
    """Whether a token that is limited so may be used for all of these models, and patterns of models."""
    holds = all(name in limit for name in names)
    if trace:
        trace.add(f"the token is limited to the models {limit}", holds)
    return holds


def _may(identity: Identity, right: Right, rule: ModelRule, version: str, trace: Trace | None) -> bool:
    if identity.owner is not None and not _may(identity.owner, right, rule, version, None):
        if trace:
            trace.add("the owner of the token may", holds=False)
        return False
    holds = has(identity, rule.rights[right], trace and trace.add())
    if rule.versions and (holds or trace):
        narrowed = {version: rule.versions.get(version, {})} if version else rule.versions
        each = (
            has(identity, narrowing[right], trace and trace.add(f"version {name}: "))
            for name, narrowing in narrowed.items()
            if right in narrowing
        )
        holds = all([holds, *each] if trace else each)
    if trace:
        trace.holds = holds
    return holds


def _each(identity: Identity, permissions: Iterable[Permission], trace: Trace | None) -> Iterable[bool]:
    if trace is None:
        return (has(identity, permission) for permission in permissions)
    return [has(identity, permission, trace.add()) for permission in permissions]


def _traits(identity: Identity, trait: Trait) -> Iterable[str]:
    if trait is Trait.ROLE:
        return identity.roles
    if trait is Trait.SCOPE:
        return identity.scopes
    if trait is Trait.GROUP:
        return identity.groups
    return (identity.principal.subject if trait is Trait.PRINCIPAL else identity.principal.client,)
