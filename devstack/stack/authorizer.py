"""The authorizer, `tollgate serve`, on a database that is brought up to date first; and the usage worker beside it."""

from __future__ import annotations

import asyncio
import os
import sys

from devstack.stack.addresses import Addresses
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.environment import full
from devstack.stack.part import Part
from devstack.stack.ports import LOOPBACK
from devstack.stack.probe import answers
from devstack.stack.settings import StackSettings
from ext_authz.db.migrate import migrate

_PROGRAM = (sys.executable, "-m", "ext_authz")


def authorizer(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    probe = f"{addresses.admin}/readyz"
    child = Child(
        name="authorizer",
        command=[*_PROGRAM, "serve"],
        environment=full(state, **service_settings(settings, addresses)),
        log=state.log("authorizer"),
        answers=lambda: answers(probe),
        prepare=lambda: _migrate(addresses.database_url),
        grace=30,
    )
    return Part(name="authorizer", probe=probe, ports=("listen_port", "admin_port"), child=child)


def usage_worker(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    probe = f"http://{LOOPBACK}:{settings.usage_port}/metrics"
    child = Child(
        name="usage-worker",
        command=[*_PROGRAM, "usage-worker", "--metrics-port", f"{settings.usage_port}"],
        environment=full(state, **service_settings(settings, addresses)),
        log=state.log("usage-worker"),
        answers=lambda: answers(probe),
    )
    return Part(name="usage-worker", probe=probe, ports=("usage_port",), child=child)


def service_settings(settings: StackSettings, addresses: Addresses) -> dict[str, str]:
    """What `serve`, the worker and the operator's commands read from the environment, without the prefix."""
    return {
        "policy": str(settings.policy),
        "issuer": addresses.issuer,
        "database_url": addresses.database_url,
        "redis_url": addresses.redis_url,
        "listen_port": str(settings.listen_port),
        "admin_port": str(settings.admin_port),
        "admin_socket": str(addresses.admin_socket),
        # Envoy stops before the authorizer does: there is nobody left to be told.
        "drain_delay": os.environ.get("TOLLGATE_DRAIN_DELAY", "0"),
    }


def _migrate(database_url: str) -> None:
    asyncio.run(migrate(database_url))
