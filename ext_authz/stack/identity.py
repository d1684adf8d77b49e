"""The identity provider: a development realm that speaks like Keycloak, or a real one."""

from __future__ import annotations

import sys

from ext_authz.stack.addresses import Addresses
from ext_authz.stack.child import Child
from ext_authz.stack.directory import StateDirectory
from ext_authz.stack.environment import bare
from ext_authz.stack.part import Part
from ext_authz.stack.ports import LOOPBACK
from ext_authz.stack.probe import answers
from ext_authz.stack.settings import StackSettings


def part(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    probe = f"{addresses.issuer}/.well-known/openid-configuration"
    if settings.issuer:
        return Part(name="identity", probe=probe, setting="TOLLGATE_ISSUER")
    options = ["--realm", f"{settings.realm}", "--state", f"{state.part('identity')}"]
    child = Child(
        name="identity",
        command=[
            sys.executable,
            "-m",
            "ext_authz.devrealm",
            *options,
            "--host",
            LOOPBACK,
            "--port",
            f"{settings.idp_port}",
        ],
        environment=bare(state),
        log=state.log("identity"),
        answers=lambda: answers(probe),
    )
    return Part(name="identity", probe=probe, ports=("idp_port",), child=child)
