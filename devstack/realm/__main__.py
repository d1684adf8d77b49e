"""`python -m devstack.realm`: serve one realm export on loopback until SIGTERM."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click
import uvicorn

from devstack.realm.app import create_app
from devstack.realm.browser import WARNING
from devstack.realm.export import load_export
from ext_authz.clock import SystemClock
from ext_authz.errors import ConfigError

logger = logging.getLogger("devstack.realm")


@click.command()
@click.option("--realm", required=True, type=click.Path(path_type=Path), help="Realm export, Keycloak's import format.")
@click.option(
    "--state", required=True, type=click.Path(path_type=Path), help="Directory of keys, sessions and the admin token."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", required=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--issuer-base", default="", help="What stands before /realms in `iss`. [default: http://HOST:PORT]")
def main(realm: Path, state: Path, host: str, port: int, issuer_base: str) -> None:
    """Serve a development realm with Keycloak's URLs and claims."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    try:
        serve(realm, state, host, port, issuer_base)
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


def serve(realm: Path, state: Path, host: str, port: int, issuer_base: str) -> None:
    """Listen until a signal stops it.

    Raises:
        ConfigError: an option or the export is wrong, or the port is taken.
    """
    address = _loopback(host)
    base_url = _base_url(issuer_base) if issuer_base else f"http://{_in_url(address)}:{port}"
    export = load_export(realm)
    with _listen(address, port) as listener:
        app = create_app(export, state, base_url, SystemClock())
        logger.warning("%s", WARNING, extra={"base_url": base_url, "state": str(state)})
        # No access log: its lines would carry authorization codes and ID tokens from the query string.
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])


def _loopback(host: str) -> str:
    """The passwords are public: only this machine may connect."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(f"--host: {host!r} is not an IP address; use 127.0.0.1 or ::1") from None
    if not address.is_loopback:
        raise ConfigError(
            f"--host: {host} can be reached from other machines, and the development realm listens on loopback only;"
            " use 127.0.0.1"
        )
    return str(address)


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"--issuer-base: {text!r} is not a URL of the form http://127.0.0.1:8081")
    return text.rstrip("/")


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"--port: cannot listen on {address} port {port}: {error.strerror}") from None


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """uvicorn drains and then raises the signal again; that is a clean end."""
    sys.exit(0)


if __name__ == "__main__":
    main()
