"""A small good policy, and what it takes to try changed ones."""

from __future__ import annotations

from pathlib import Path

from ext_authz.policy.load import examine
from ext_authz.policy.model import Policy

ENVIRON = {
    "TOLLGATE_ISSUER": "http://127.0.0.1:8081/realms/tollgate",
    "TOLLGATE_PUBLIC_URL": "https://models.example",
    "TOLLGATE_CONSOLE_PORT": "9010",
}

GOOD = """
version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway], claims: {keep: [tenant, plan]}}
plans:
  gold: {roles: [gold]}
limits:
  user: {key: [user], rate: 10/minute}
models:
  cancer: {roles: [infer]}
routes:
  - {name: infer, path: "/v2/models/{model}/infer", methods: [POST], limits: [user]}
"""


def write(directory: Path, text: str, name: str = "policy.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def loaded(directory: Path, text: str) -> Policy:
    """The policy, which must be good."""
    found = examine(write(directory, text), {})
    assert not found.faults, found.faults
    assert found.policy is not None
    return found.policy
