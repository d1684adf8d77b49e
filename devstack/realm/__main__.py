"""`python -m devstack.realm`: serve one realm export on loopback until SIGTERM."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import click
import uvicorn

from devstack.realm.app import create_app
from devstack.realm.browser import WARNING
from devstack.realm.export import load_export
from ext_authz.clock import SystemClock
from ext_authz.errors import ConfigError

_HOST = "127.0.0.1"
"""Not an option: the passwords are public, so only this machine may connect."""
logger = logging.getLogger("devstack.realm")


@click.command()
@click.option("--realm", required=True, type=click.Path(path_type=Path), help="Realm export, Keycloak's import format.")
@click.option(
    "--state", required=True, type=click.Path(path_type=Path), help="Directory of keys, sessions and the admin token."
)
@click.option("--port", required=True, type=click.IntRange(1, 65535), help=f"Port to listen on, on {_HOST}.")
def main(realm: Path, state: Path, port: int) -> None:
    """Serve a development realm with Keycloak's URLs and claims."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    try:
        serve(realm, state, port)
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


def serve(realm: Path, state: Path, port: int) -> None:
    """Listen until a signal stops it.

    Raises:
        ConfigError: the export is wrong, or the port is taken.
    """
    export = load_export(realm)
    with _listen(port) as listener:
        base_url = f"http://{_HOST}:{port}"
        app = create_app(export, state, base_url, SystemClock())
        logger.warning("%s", WARNING, extra={"base_url": base_url, "state": str(state)})
        # No access log: its lines would carry authorization codes and ID tokens from the query string.
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port), backlog=128)
    except OSError as error:
        raise ConfigError(f"--port: cannot listen on {_HOST} port {port}: {error.strerror}") from None


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """uvicorn drains and then raises the signal again; that is a clean end."""
    sys.exit(0)


if __name__ == "__main__":
    main()
