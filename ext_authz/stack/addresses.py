"""Where every part is: on a port of ours, or where a setting says."""

from __future__ import annotations

from dataclasses import dataclass, field

from ext_authz.stack.directory import StateDirectory
from ext_authz.stack.ports import LOOPBACK
from ext_authz.stack.settings import StackSettings, realm_name

POSTGRES_USER = "tollgate"
POSTGRES_DATABASE = "tollgate"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """The two database URLs hold passwords."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    issuer: str
    triton_host: str
    triton_http_port: int
    triton_grpc_port: int
    authorizer_port: int
    admin: str
    envoy: str
    """What callers use: `http://host:port` for REST."""
    envoy_grpc: str
    """The same listener as gRPC clients write it: `host:port`."""
    envoy_admin: str


def resolve(settings: StackSettings, state: StateDirectory) -> Addresses:
    """Makes the passwords on first use."""
    host, http_port, grpc_port = _triton(settings)
    return Addresses(
        database_url=_database_url(settings, state),
        redis_url=_redis_url(settings, state),
        issuer=settings.issuer or f"http://{LOOPBACK}:{settings.idp_port}/realms/{realm_name(settings.realm)}",
        triton_host=host,
        triton_http_port=http_port,
        triton_grpc_port=grpc_port,
        authorizer_port=settings.listen_port,
        admin=f"http://{LOOPBACK}:{settings.admin_port}",
        envoy=f"http://{LOOPBACK}:{settings.envoy_port}",
        envoy_grpc=f"{LOOPBACK}:{settings.envoy_port}",
        envoy_admin=f"http://{LOOPBACK}:{settings.envoy_admin_port}",
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


def _triton(settings: StackSettings) -> tuple[str, int, int]:
    if not settings.triton:
        return LOOPBACK, settings.triton_http_port, settings.triton_grpc_port
    host, http_port, grpc_port = settings.triton.rsplit(":", 2)
    return host, int(http_port), int(grpc_port)
