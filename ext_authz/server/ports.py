"""Ports and sockets are tried before any server starts: what is wrong is a sentence, not a stack trace."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ext_authz.errors import ConfigError
from ext_authz.settings import private_directory


def bound(setting: str, host: str, port: int, *, shared: bool = False, listening: bool = True) -> socket.socket:
    """Bind exclusively, or `shared` by all who say so: workers of one `serve`, which has seen that the port is free."""
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ConfigError(f"TOLLGATE_{setting}_HOST: {host!r} is no address and no name that resolves") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    if family is socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
    try:
        listener.bind((address, port))
        if listening:
            listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"TOLLGATE_{setting}_PORT: cannot listen on {host}:{port} ({error.strerror}); "
            f"stop what listens there or choose another port"
        ) from None
    return listener


def claimed(setting: str, host: str, port: int) -> socket.socket:
    """Bound, and not listening: as long as it is open `bound` refuses the port to another `serve`, also while no worker
    listens yet, and leaves it to those who share it.

    Raises:
        ConfigError: another process has the port.
    """
    bound(setting, host, port).close()
    claim = bound(setting, host, port, shared=True, listening=False)
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # from now on: it was for connections that are over
    return claim


@contextmanager
def unix_socket(setting: str, path: Path) -> Iterator[socket.socket]:
    """Listen where only this user (and root) can connect; what a killed process left there is removed.

    Raises:
        ConfigError: names the setting.
    """
    if path.parent == private_directory():
        ensure_private(path.parent, f"or set TOLLGATE_{setting}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the mode is right from the start
    try:
        _make_way(path)
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        why = error.strerror or "the path of a Unix socket has at most 107 bytes"
        raise ConfigError(f"TOLLGATE_{setting}: cannot listen on {path} ({why}); choose another path") from None
    finally:
        os.umask(before)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        error = probe.connect_ex(str(path)) or errno.EADDRINUSE
    if error != errno.ECONNREFUSED:
        raise OSError(error, os.strerror(error))
    path.unlink()


def ensure_private(directory: Path, otherwise: str) -> None:
    """A directory in a place where everybody may write: made by us, or refused.

    Raises:
        ConfigError: somebody else holds that place; `otherwise` says what to do about it.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigError(f"{directory} is not a directory that only this user can enter: remove it, {otherwise}")
