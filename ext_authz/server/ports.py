"""Ports are tried before any server starts, so that a taken one is a sentence."""

from __future__ import annotations

import socket

from ext_authz.errors import ConfigError


def resolved(setting: str, host: str) -> tuple[socket.AddressFamily, str]:
    """The address a host name stands for: Envoy binds addresses, not names."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ConfigError(f"TOLLGATE_{setting}_HOST: {host!r} is no address and no name that resolves") from None
    return family, str(address[0])


def bound(setting: str, host: str, port: int) -> socket.socket:
    """Bind exclusively: another Tollgate on the port is refused too, though SO_REUSEPORT would let it share."""
    family, address = resolved(setting, host)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"TOLLGATE_{setting}_PORT: cannot listen on {host}:{port} ({error.strerror}); "
            f"stop what listens there or choose another port"
        ) from None
    return listener


def ensure_free(setting: str, host: str, port: int) -> None:
    bound(setting, host, port).close()
