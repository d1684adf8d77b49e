"""What a check asked and found, filled in on the way through the phases; `explain` and the decision record read it."""

from __future__ import annotations

from msgspec import Struct

from ext_authz.decision import ANONYMOUS, Principal
from ext_authz.identity.identity import Identity
from ext_authz.phases.settle_request import Charge
from ext_authz.policy.model import Match


class CheckContext(Struct):
    """What is known so far; a refusal reports it, whichever phase it comes from, and who explains one looks at it."""

    decision_id: str = ""
    match: Match | None = None
    identity: Identity | None = None
    charge: Charge | None = None
    principal: Principal = ANONYMOUS
    route: str = ""
    model: str = ""
    version: str = ""
    degraded: str = ""
