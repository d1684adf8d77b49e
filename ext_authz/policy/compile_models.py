"""From `permission:` and `models:` to `rights.py`, and from `experiments:` to `model.py`."""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents.base import seconds
from ext_authz.policy.documents.models import ExperimentDocument, ModelDocument, PermissionDocument, VersionDocument
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Experiment, Mirror, Override
from ext_authz.policy.rights import (
    EVERYONE,
    NOBODY,
    AllOf,
    AnyOf,
    Has,
    ModelRule,
    ModelRules,
    Not,
    Permission,
    Predictions,
    Trait,
    literal_length,
)

_MAX_PATTERNS = 1000


def permission(document: PermissionDocument) -> Permission:
    """One tree, with `any` of one trait made one set."""
    if document.any is not None:
        return _any(tuple(map(permission, document.any)))
    if document.all is not None:
        return AllOf(tuple(map(permission, document.all)))
    if document.not_ is not None:
        return Not(permission(document.not_))
    trait = next(trait for trait in Trait if getattr(document, trait) is not None)
    return Has(trait, frozenset({getattr(document, trait)}))


def granted(roles: frozenset[str] | None, document: PermissionDocument | None, otherwise: Permission) -> Permission:
    """The permission of `roles` or of its long form; at most one of them is set."""
    if roles is not None:
        return Has(Trait.ROLE, roles)
    return otherwise if document is None else permission(document)


def denies(tree: Permission, trait: Trait, *, negated: bool = False) -> bool:
    """Whether a caller can be permitted for not having something of this kind."""
    match tree:
        case Has():
            return negated and tree.trait is trait
        case Not():
            return denies(tree.part, trait, negated=True)
    return any(denies(part, trait, negated=negated) for part in tree.parts)


def _any(parts: tuple[Permission, ...]) -> Permission:
    traits = {part.trait for part in parts if isinstance(part, Has)}
    sets = [part.values for part in parts if isinstance(part, Has)]
    if len(traits) == 1 and len(sets) == len(parts):
        return Has(traits.pop(), frozenset().union(*sets))
    return AnyOf(parts)


def model_rules(documents: Mapping[str, ModelDocument], diagnostics: Diagnostics) -> ModelRules:
    """All entries; patterns of which neither takes precedence are reported."""
    patterns = [name for name in documents if "*" in name]
    if len(patterns) > _MAX_PATTERNS:
        what, hint = "the policy has too many patterns of models", f"write at most {_MAX_PATTERNS}"
        diagnostics.report_key(("models", patterns[_MAX_PATTERNS]), "too_many_patterns", what, hint)
        patterns = []
    for index, name in enumerate(patterns):
        if clash := next((other for other in patterns[:index] if _are_equal(name, other)), None):
            what = f"the patterns {clash!r} and {name!r} can match one model, and neither is more specific"
            hint = f"the other is at {diagnostics.position(('models', clash))}: write a longer pattern for one"
            diagnostics.report_key(("models", name), "ambiguous_pattern", what, hint)
    return ModelRules(_rule(name, document) for name, document in documents.items())


def _are_equal(one: str, two: str) -> bool:
    """Equal in precedence, and a name can match both: what is before the first `*` and after the last agrees."""
    if literal_length(one) != literal_length(two):
        return False
    (start, *_, end), (other_start, *_, other_end) = one.split("*"), two.split("*")
    starts_agree = start.startswith(other_start) or other_start.startswith(start)
    return starts_agree and (end.endswith(other_end) or other_end.endswith(end))


def _rule(name: str, document: ModelDocument) -> ModelRule:
    call = granted(document.roles, document.call, NOBODY)
    rights = {
        Right.CALL: call,
        Right.SEE: EVERYONE if document.visibility == "public" else granted(None, document.see, call),
        Right.ADMINISTER: granted(None, document.administer, NOBODY),
    }
    versions = {version: _narrowing(narrowed) for version, narrowed in document.versions.items()}
    kept = document.predictions
    predictions = Predictions(kept.inputs, seconds(kept.keep), permission(kept.readers)) if kept else None
    return ModelRule(name, rights, versions, predictions)


def _narrowing(document: VersionDocument) -> dict[Right, Permission]:
    narrowed = {Right.CALL: document.call, Right.SEE: document.see, Right.ADMINISTER: document.administer}
    return {right: permission(tree) for right, tree in narrowed.items() if tree is not None}


def experiments(
    documents: Mapping[str, ExperimentDocument], models: ModelRules, diagnostics: Diagnostics
) -> dict[str, Experiment]:
    """By model."""
    found: dict[str, Experiment] = {}
    written = ModelRules(ModelRule(name, {}) for name in diagnostics.source.names("models"))
    for name, document in documents.items():
        path = ("experiments", name, "model")
        if models.rule(document.model) is None and written.rule(document.model) is None:
            diagnostics.report_undefined(path, "model", document.model)
        if document.model in found:
            what = f"the model {document.model!r} is already in the experiment {found[document.model].name!r}"
            diagnostics.report(path, "defined_twice", what, "a model has at most one experiment: remove one")
        found[document.model] = _experiment(name, document)
    return found


def _experiment(name: str, document: ExperimentDocument) -> Experiment:
    chosen = document.override
    override = Override(chosen.header, chosen.values, permission(chosen.permission)) if chosen else None
    mirror = Mirror(document.mirror.to, document.mirror.percent) if document.mirror else None
    salt = document.salt or name
    return Experiment(name, document.model, document.weights, salt, override, document.versions, mirror)
