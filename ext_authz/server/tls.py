"""TLS files are tried before any server starts, so that a wrong one is a sentence and not a worker's stack trace."""

from __future__ import annotations

import ssl
from pathlib import Path

from ext_authz.errors import ConfigError
from ext_authz.settings import Settings


def ensure_usable(settings: Settings) -> None:
    """Raises ConfigError that names the setting whose file cannot serve."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    for name, path in (("CERT", settings.tls_cert), ("KEY", settings.tls_key), ("CLIENT_CA", settings.tls_client_ca)):
        _ensure_readable(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The empty password keeps OpenSSL from asking a terminal for one.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY: {settings.tls_cert} and {settings.tls_key} are not a PEM "
            "certificate and its unencrypted PEM key"
        ) from None
    if settings.tls_client_ca is not None:
        _ensure_authority(context, settings.tls_client_ca)


def _ensure_readable(name: str, path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise ConfigError(f"TOLLGATE_TLS_{name}: cannot read {path} ({error.strerror})") from None


def _ensure_authority(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"TOLLGATE_TLS_CLIENT_CA: {path} holds no PEM certificate") from None
