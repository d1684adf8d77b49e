"""What goes over the line between the supervisor and a worker, one JSON object a line."""

from __future__ import annotations

from msgspec import Struct

from ext_authz.reload.rollout import Holding, Order, Role


class Told(Struct, frozen=True, omit_defaults=True):
    """Down."""

    drain: bool = False
    order: Order | None = None


class Said(Struct, frozen=True):
    """Up, every second and whenever something changed."""

    serving: bool = False
    up: dict[str, bool] = {}
    """By dependency."""
    degraded: dict[str, str] = {}
    """By dependency that is away: what the policy makes of that."""
    policies: dict[Role, Holding] = {}
    wrong: str = ""
    """Why it cannot start: the one thing said then."""
