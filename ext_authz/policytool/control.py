"""`tollgate policy status`, `differences` and `reload`: the running service, asked over its Unix socket."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import httpx

from ext_authz.errors import TollgateError
from ext_authz.settings import load_admin_settings

_SECONDS = 60.0
"""A reload compiles a policy and waits until every worker holds it."""


@click.command()
def status() -> None:
    """The policy that a running service goes by, its candidate, and whether the files are good."""
    _show(_asked("GET", "/policy"))


@click.command()
def differences() -> None:
    """What the candidate policy would have decided otherwise, the latest first."""
    _show(_asked("GET", "/policy/shadow"))


@click.command()
def reload() -> None:
    """Have a running service read its policy files now. Exit status 1 where a file is not good."""
    _show(_asked("POST", "/policy/reload"))


def _asked(method: str, path: str) -> httpx.Response:
    where = load_admin_settings().control_socket
    transport = httpx.HTTPTransport(uds=str(where), verify=False)
    try:
        with httpx.Client(transport=transport, base_url="http://tollgate", timeout=_SECONDS) as service:
            return service.request(method, path)
    except httpx.TransportError as failure:
        hint = "is tollgate serve running, as this user? TOLLGATE_ADMIN_SOCKET and TOLLGATE_ADMIN_PORT say where"
        raise TollgateError(f"nothing answers at {where} ({failure}): {hint}") from None


def _show(answer: httpx.Response) -> None:
    said: dict[str, Any] = answer.json()
    click.echo(json.dumps(said, indent=2))
    sys.exit(0 if answer.is_success else 1)
