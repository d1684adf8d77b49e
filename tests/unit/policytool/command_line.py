"""Runs `tollgate policy ...` in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from devstack import stack
from ext_authz.policytool.commands import policy

DEMO = Path(str(stack.__file__)).parent
"""Where the demo's policy and its tests are."""

ENVIRONMENT = {
    "TOLLGATE_ISSUER": "https://id.example/realms/ml",
    "TOLLGATE_PUBLIC_URL": "https://models.example",
    "TOLLGATE_CONSOLE_PORT": "9010",
}


def run(*arguments: str | Path, stdin: str = "") -> Result:
    """The command with these arguments; whatever it raises is raised."""
    return CliRunner().invoke(policy, list(map(str, arguments)), input=stdin, env=ENVIRONMENT, catch_exceptions=False)


def written(directory: Path, text: str, name: str = "policy.yaml") -> Path:
    """A file with this text."""
    path = directory / name
    path.write_text(text)
    return path
