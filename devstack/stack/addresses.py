"""Where every part is: on a port of ours, or where a setting names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from devstack.stack.directory import StateDirectory
from devstack.stack.settings import StackSettings, realm_name
from ext_authz.render.endpoints import LOOPBACK, Pipe, Triton, triton

POSTGRES_USER = "tollgate"
POSTGRES_DATABASE = "tollgate"
GRPC_PORT = 8001
MAIN = "triton"
"""The part that serves every model, and its directory."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """The two database URLs hold passwords."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    issuer: str
    triton: Triton
    """Ours has sockets that only this user can open: Triton itself checks no token."""
    admin: str
    admin_socket: Path
    access_log: Path
    """A socket of the usage worker."""
    envoy: str
    """For REST on this machine: `http://host:port`."""
    envoy_grpc: str
    """The same listener as gRPC clients write it: `host:port`."""
    public_url: str
    """What the policy names to callers."""
    envoy_admin: Path
    """A socket."""


def resolve(settings: StackSettings, state: StateDirectory) -> Addresses:
    """Makes the passwords on first use."""
    envoy = f"{LOOPBACK}:{settings.envoy_port}"
    return Addresses(
        database_url=_database_url(settings, state),
        redis_url=_redis_url(settings, state),
        issuer=settings.issuer or f"http://{LOOPBACK}:{settings.idp_port}/realms/{realm_name(settings.realm)}",
        triton=triton(settings.triton) if settings.triton else own_triton(state, MAIN),
        admin=f"http://{LOOPBACK}:{settings.admin_port}",
        admin_socket=state.plain_part("authorizer") / "admin.sock",
        access_log=state.plain_part("usage-worker") / "log.sock",
        envoy=f"http://{envoy}",
        envoy_grpc=envoy,
        public_url=settings.public_url or f"http://{envoy}",
        envoy_admin=state.plain_part("envoy") / "admin.sock",
    )


def _database_url(settings: StackSettings, state: StateDirectory) -> str:
    if settings.database_url:
        return settings.database_url.get_secret_value()
    password = state.secret("postgres", "password")
    return f"postgresql://{POSTGRES_USER}:{password}@{LOOPBACK}:{settings.postgres_port}/{POSTGRES_DATABASE}"


def _redis_url(settings: StackSettings, state: StateDirectory) -> str:
    if settings.redis_url:
        return settings.redis_url.get_secret_value()
    return f"redis://:{state.secret('redis', 'password')}@{LOOPBACK}:{settings.redis_port}/0"


def own_triton(state: StateDirectory, part: str) -> Triton:
    """gRPC takes host and port for one path."""
    home = state.plain_part(part)
    return Triton(Pipe(f"{home}/http"), Pipe(f"{home}/grpc:{GRPC_PORT}"))
