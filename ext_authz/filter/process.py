"""`tollgate filter`: one listener, for Envoy alone, until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import httpx
import uvicorn

from ext_authz.clock import SystemClock
from ext_authz.errors import ConfigError
from ext_authz.filter.application import application
from ext_authz.filter.mlflow import SECONDS, Mlflow
from ext_authz.filter_settings import FilterSettings
from ext_authz.observability import log
from ext_authz.web.bodies import configuration

_CALLS = 256
"""At a time; more are answered 503. Each holds a MiB of a body at most."""


async def serve(settings: FilterSettings) -> None:
    """Until SIGTERM or SIGINT."""
    log.configure(settings.log_level)
    limits = httpx.Limits(max_connections=_CALLS, max_keepalive_connections=32, keepalive_expiry=4)
    # Neither a proxy of the environment nor redirects: nothing but this server is to be called.
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits, trust_env=False, follow_redirects=False) as http:
        mlflow = Mlflow(settings.filter_mlflow_url, http, SystemClock())
        config = configuration(application(mlflow, settings.filter_prefix, settings.filter_artifact_bytes))
        config.limit_concurrency = _CALLS
        for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn raises once more when it has ended
            asyncio.get_running_loop().add_signal_handler(number, _ended)
        with _bound(settings.filter_listen) as listener:
            await uvicorn.Server(config).serve(sockets=[listener])


def _ended() -> None:
    """Nothing is left to do."""


def _bound(where: str) -> socket.socket:
    """Raises ConfigError."""
    try:
        return _unix(Path(where.removeprefix("unix:"))) if where.startswith("unix:") else _tcp(where)
    except (OSError, OverflowError) as failure:
        said = getattr(failure, "strerror", None) or "no such port"
        raise ConfigError(f"TOLLGATE_FILTER_LISTEN: cannot listen on {where} ({said})") from None


def _tcp(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    if int(port) > 65535:
        raise OverflowError
    return socket.create_server((host.strip("[]"), int(port)), family=_family(host), backlog=_CALLS)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if host.startswith("[") else socket.AF_INET


def _unix(path: Path) -> socket.socket:
    """Of this user alone: who can connect can say that they are anybody."""
    if path.is_socket():
        path.unlink()  # of a process that was killed
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(_CALLS)
    return listener
