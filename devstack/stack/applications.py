"""The sentiment application of the demo, where its folder is: in a checkout, and not in the wheels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from devstack.stack.addresses import Addresses
from devstack.stack.child import Child, Part
from devstack.stack.directory import StateDirectory, bare
from devstack.stack.probe import over
from devstack.stack.services import client_secret
from devstack.stack.settings import StackSettings
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Pipe

SENTIMENT = "sentiment-app"
"""The upstream in the policy, the client at the identity provider, and the part."""


def applications(
    settings: StackSettings, state: StateDirectory, addresses: Addresses, policy: Policy
) -> Iterator[Child]:
    """None that no route of the policy names. Without its folder, its paths get 404."""
    is_named = any(route.upstream == SENTIMENT for route in policy.routes)
    if not is_named or not (settings.applications / "sentiment").is_dir():
        return
    socket = _socket(state, SENTIMENT)
    own = {
        "listen": f"unix:{socket.path}",
        "public_url": addresses.public_url,
        "models_url": addresses.envoy,
        "issuer": addresses.issuer,
        "client_secret": os.environ.get("SENTIMENT_CLIENT_SECRET") or client_secret(settings, state, SENTIMENT),
        "database_url": addresses.database_url,
    }
    yield Child(
        name=SENTIMENT,
        command=[sys.executable, "-m", "applications.sentiment", "serve"],
        environment=bare(state)
        | {f"SENTIMENT_{name.upper()}": value for name, value in own.items()}
        | {"PYTHONPATH": str(settings.applications.parent)},
        log=state.log(SENTIMENT),
        probe=over(socket.path, "/sentiment/healthz"),
    )


def upstreams(state: StateDirectory, parts: Iterable[Part]) -> dict[str, Pipe]:
    """Where Envoy finds those that are started."""
    return {part.name: _socket(state, part.name) for part in parts}


def _socket(state: StateDirectory, name: str) -> Pipe:
    return Pipe(str(state.plain_part(name) / "http"))
