"""TLS of the gRPC listeners: the settings, whether their files can serve, and the credentials made of them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ext_authz.environment import FromEnvironment
from ext_authz.errors import ConfigError

if TYPE_CHECKING:
    import grpc


class TlsSettings(FromEnvironment):
    """Of `serve`, and of the usage worker if it takes access logs."""

    tls_cert: Path | None = Field(None, description="PEM certificate chain of the gRPC listener")
    tls_key: Path | None = Field(None, description="PEM key of the gRPC listener")
    tls_client_ca: Path | None = Field(None, description="PEM CA; set, only clients it signed may connect (mTLS)")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY go together: set both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("TOLLGATE_TLS_CLIENT_CA needs TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY")
        return self


def ensure_tls_usable(settings: TlsSettings) -> None:
    """Raises ConfigError that names the setting whose file cannot serve."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    for name, path in (("CERT", settings.tls_cert), ("KEY", settings.tls_key), ("CLIENT_CA", settings.tls_client_ca)):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise ConfigError(f"TOLLGATE_TLS_{name}: cannot read {path} ({error.strerror})") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The empty password keeps OpenSSL from asking a terminal for one.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ValueError):  # not only an SSLError: the files may be replaced at this very moment
        raise ConfigError(
            f"TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY: {settings.tls_cert} and {settings.tls_key} are not a PEM "
            "certificate and its unencrypted PEM key"
        ) from None
    try:
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
    except OSError:
        raise ConfigError(f"TOLLGATE_TLS_CLIENT_CA: {settings.tls_client_ca} holds no PEM certificate") from None


def add_port(server: grpc.aio.Server, address: str, settings: TlsSettings) -> None:
    """Raises RuntimeError where it cannot be listened on."""
    if credentials := _credentials(settings):
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)


def _credentials(settings: TlsSettings) -> grpc.ServerCredentials | None:
    """For a server of grpcio; None: plain text. A connection gets the files as they are when it is made."""
    import grpc

    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None or key is None:
        return None

    def read() -> grpc.ServerCertificateConfiguration:
        authority = client_ca.read_bytes() if client_ca else None
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), cert.read_bytes())], authority)

    return grpc.dynamic_ssl_server_credentials(read(), read, require_client_authentication=client_ca is not None)
