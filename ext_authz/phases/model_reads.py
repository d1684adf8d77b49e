"""`GET /.tollgate/models`: what the caller may do with each model, by the function that checks ask.

Not `GET /v2/models`: servers of the Open Inference Protocol list their own models there.
"""

from __future__ import annotations

from msgspec import Struct

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.permission import VisibleModel, visible
from ext_authz.phases.settle_request import revoked
from ext_authz.policy.model import Policy
from ext_authz.revocation import entry
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult


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
