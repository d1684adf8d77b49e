"""What a caller may do with each model, by the function that checks ask: `GET /.tollgate/models`, and Triton's index.

Not `GET /v2/models`: servers of the Open Inference Protocol list their own models there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.phases.settle_request import revoked
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Policy
from ext_authz.revocation import entry
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult

OTHERS = "*"
"""Stands for every version that the policy does not name."""


class Access(Struct, frozen=True):
    """What a caller may do with a version."""

    call: bool
    see: bool


class VisibleModel(Struct, frozen=True, omit_defaults=True):
    """What a caller may do with a model."""

    name: str
    """With a `*`: every model called so for which the policy has no closer rule."""
    call: bool
    """Every version of it, without naming one too; otherwise `versions` has what is left."""
    see: bool
    """Likewise."""
    versions: Mapping[str, Access] = {}


class ModelsDocument(Struct, frozen=True):
    """The answer."""

    models: tuple[VisibleModel, ...]


class ModelRead(Struct, frozen=True):
    """One read; what is settled is whether the caller was revoked."""

    settle_request: SettleRequest
    identity: Identity
    policy: Policy

    def document(self, result: SettleResult) -> ModelsDocument:
        """
        Raises:
            Denied: REVOKED.
        """
        if result.outcome is Outcome.REVOKED:
            raise revoked(result)
        return ModelsDocument(tuple(visible(self.identity, self.policy)))


def model_read(identity: Identity, request: Request, policy: Policy) -> ModelRead:
    """
    Raises:
        Denied: BAD_REQUEST for a query.
    """
    if request.query:
        raise Denied(Reason.BAD_REQUEST, "query_not_understood", "write no query: all models are listed")
    settle_request = SettleRequest(entry.ids(identity), identity.issued_at, (), b"", policy.failure)
    return ModelRead(settle_request, identity, policy)


def visible(identity: Identity, policy: Policy) -> Iterator[VisibleModel]:
    """Every model of which this caller may call or see a version, as far as anybody has named it: the policy, or the
    token that is limited to it. Exactly what `may` says of each."""
    written = identity.models.written if identity.models is not None else ()
    for name in dict.fromkeys((*(rule.name for rule in policy.models.all), *written)):
        rule = policy.models.rule(name)
        if rule is None:
            continue
        whole = _access(identity, name, "", policy)
        narrowed = (*rule.versions, OTHERS) if rule.versions and not (whole.call and whole.see) else ()
        each = {version: _access(identity, name, version, policy) for version in narrowed}
        versions = {version: access for version, access in each.items() if access.call or access.see}
        if whole.call or whole.see or versions:
            yield VisibleModel(name, whole.call, whole.see, versions)


def index(identity: Identity, policy: Policy) -> Iterator[dict[str, str]]:
    """Triton's index of what the caller may see. A row without a version is of every one, or of those that the policy
    does not name."""
    for model in visible(identity, policy):
        versions = [version for version, access in model.versions.items() if access.see]
        named = [version for version in versions if version != OTHERS]
        if "*" in model.name:
            continue
        if named and not model.see:
            yield from ({"name": model.name, "version": version} for version in named)
        elif model.see or versions:
            yield {"name": model.name}


def _access(identity: Identity, model: str, version: str, policy: Policy) -> Access:
    return Access(*(may(identity, right, model, version, policy) for right in (Right.CALL, Right.SEE)))
