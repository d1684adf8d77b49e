"""Policies to render: the demo's, with other routes and experiments."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

import devstack
from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.issuers import Issuer, OwnTokens
from ext_authz.policy.kserve import Kind
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Experiment, Override, Policy, Route
from ext_authz.policy.rights import EVERYONE

ROOT = Path(devstack.__file__).parents[1]
ENVIRONMENT = {
    "TOLLGATE_ISSUER": "https://id.example/realms/tollgate",
    "TOLLGATE_PUBLIC_URL": "https://models.example",
    "TOLLGATE_CONSOLE_PORT": "9010",
}
DEMO = Path(devstack.__file__).parent / "stack" / "policy.yaml"

EVERYDAY = (Kind.INFER, Kind.STREAM, Kind.GENERATE, Kind.METADATA, Kind.HEALTH)
TOKENS = OwnTokens(
    issuer=Issuer(
        name="tollgate",
        issuer="https://models.example/tollgate",
        jwks_url="https://models.example/tollgate/jwks",
        audiences=frozenset({"triton-gateway"}),
        algorithms=frozenset({"ES256"}),
    ),
    max_lifetime=86_400,
    per_owner=50,
)
CANARY = Experiment(
    name="sentiment-v2",
    model="sentiment",
    weights={"stable": 90, "canary": 10},
    salt="sentiment-v2",
    override=Override(header="x-experiment", values={"canary": "canary"}, permission=EVERYONE),
)


@lru_cache(maxsize=1)
def whole_demo() -> Policy:
    return load_policy(DEMO, ENVIRONMENT)


def demo() -> Policy:
    """Without its experiment, which some gateways do not take: `CANARY` is for tests of that."""
    return replace(whole_demo(), experiments={})


def policy(*routes: Route, **parts: object) -> Policy:
    """Without a console, unless `parts` has `tokens`."""
    return replace(demo(), **({"routes": routes, "tokens": None} | parts))


def of_kinds(*kinds: Kind, **parts: object) -> Policy:
    return policy(*(Route(name=kind, operation=kind) for kind in kinds), **parts)


def at(
    path: str,
    *,
    grpc: bool = False,
    hosts: tuple[str, ...] = (),
    headers: frozenset[str] = frozenset(),
    when: Condition | None = None,
) -> Route:
    post = frozenset({"POST"})
    return Route(name="one", path=path, methods=post, grpc=grpc, hosts=hosts, headers=headers, when=when)
