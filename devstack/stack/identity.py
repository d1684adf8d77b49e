"""The identity provider: a development realm that speaks like Keycloak, or a real one."""

from __future__ import annotations

import sys

from devstack.stack.addresses import Addresses
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.environment import bare
from devstack.stack.part import Part
from devstack.stack.ports import LOOPBACK
from devstack.stack.probe import answers
from devstack.stack.settings import StackSettings


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
            "devstack.realm",
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
