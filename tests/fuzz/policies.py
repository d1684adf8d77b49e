"""Every policy that the repository ships: the demo's and the cookbook's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from devstack import stack
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy

ROOT = Path(__file__).parents[2]
ENVIRON = {
    "TOLLGATE_ISSUER": "https://id.example/realms/demo",
    "TOLLGATE_PUBLIC_URL": "https://models.example",
    "TOLLGATE_INTROSPECTION_SECRET": "no-secret",
    "TOLLGATE_CONSOLE_PORT": "9010",
}


@cache
def policy_files() -> tuple[Path, ...]:
    """The demo's first."""
    cookbook = sorted((ROOT / "docs" / "cookbook").glob("*/policy.yaml"))
    return (Path(str(stack.__file__)).with_name("policy.yaml"), *cookbook)


@cache
def policies() -> tuple[Policy, ...]:
    """In the order of their files."""
    return tuple(load_policy(file, ENVIRON) for file in policy_files())
