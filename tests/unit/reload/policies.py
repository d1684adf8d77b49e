"""Policies to be reloaded, and what stands around them."""

from __future__ import annotations

from pathlib import Path

from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.reload.compiled import write
from ext_authz.reload.rollout import Order, Role
from tests import tokens

OTHER = "https://other.example/realms/ml"
"""Another issuer; it signs with the same key here."""


def text(*, roles: str = "infer", issuers: tuple[str, ...] = (tokens.ISSUER,), leeway: int = 30, rate: int = 10) -> str:
    """One route to the model sentiment, open to `roles`, with a condition and a limit."""
    listed = "".join(
        f"  - {{name: i{number}, issuer: {issuer}, audiences: [triton-gateway], roles_client: triton-gateway,"
        f" leeway: {leeway}s}}\n"
        for number, issuer in enumerate(issuers)
    )
    return f"""
version: 1
issuers:
{listed}
limits:
  user: {{key: [user], rate: {rate}/hour}}
models:
  sentiment: {{roles: [infer]}}
  "other-*": {{roles: [infer]}}
routes:
  - name: infer
    path: "/v2/models/{{model}}/infer"
    methods: [POST]
    roles: [{roles}]
    when: request.method == 'POST'
    limits: [user]
  - {{name: ready, path: "/v2/models/{{model}}/ready", methods: [GET], limits: [user]}}
"""


class Policies:
    """Writes policies as text and as the supervisor's child compiles them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0

    def load(self, written: str) -> Policy:
        file = self._directory / "policy.yaml"
        file.write_text(written)
        return load_policy(file, {})

    def order(self, written: str, role: Role = Role.POLICY) -> Order:
        policy = self.load(written)
        self._number += 1
        file = self._directory / f"{self._number}.compiled"
        write(policy, file)
        return Order(self._number, role, str(file), policy.hash)


def spoil(order: Order) -> None:
    """What it points to is no policy."""
    Path(order.file).write_bytes(b"garbage")


def remove(order: Order) -> None:
    """What it points to is gone."""
    Path(order.file).unlink()
