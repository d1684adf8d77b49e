"""Every setting of `tollgate console`."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from ext_authz.environment import FromEnvironment
from ext_authz.settings import (
    AdminSettings,
    DatabaseSettings,
    PolicySettings,
    ProcessSettings,
    StoreSettings,
    TokenSettings,
)
from ext_authz.tls import TlsSettings


class KeySettings(FromEnvironment):
    """How secrets are encrypted."""

    console_keys: SecretStr = Field(
        description="keys that encrypt what the console keeps, base64 of 32 bytes each, separated by commas: the first "
        "encrypts, all decrypt"
    )

    @field_validator("console_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr) -> SecretStr:
        for each in keys.get_secret_value().split(","):
            try:
                whole = len(b64decode(each.strip(), validate=True)) == 32
            except ValueError:
                whole = False
            if not whole:
                raise ValueError("each key is the base64 of 32 bytes, such as openssl rand -base64 32 prints")
        return keys


class TokenCommandSettings(StoreSettings, PolicySettings, KeySettings):
    """Of `tollgate tokens`, which does beside the console what the console does."""

    policy: Path = Field(description="the policy: a file, or a directory of files")


class ConsoleClientSettings(FromEnvironment):
    """Which client the console is, and where."""

    console_issuer: str = Field(
        "", description="the issuer that people sign in at, by its name in the policy; unset: the only one"
    )
    console_client_id: str = Field(
        "tollgate-console",
        min_length=1,
        description="client of the console at that issuer (code flow, service account)",
    )
    console_client_secret: SecretStr = Field(description="secret of that client")


class SignalsSettings(DatabaseSettings, PolicySettings, TokenSettings, ConsoleClientSettings):
    """Of `tollgate signals`."""


class ConsoleSettings(
    ProcessSettings, PolicySettings, TokenSettings, AdminSettings, TlsSettings, KeySettings, ConsoleClientSettings
):
    """Of `tollgate console`. TLS is that of its gRPC listener; the admin socket is that of an authorizer beside it."""

    policy: Path = Field(description="the policy: a file, or a directory of files")
    console_host: str = Field("127.0.0.1", min_length=1, description="address of the console's listeners")
    console_port: int = Field(9010, ge=1, le=65535, description="port of its pages and its REST interface")
    console_grpc_port: int = Field(9011, ge=1, le=65535, description="port of its gRPC interface")
    console_door_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@\s]+)?$",
        description="origin at which the console calls models for people who try them, such as that of the gateway's "
        "Service; unset: that of the policy's `resource.url`",
    )
    catalogue_models: Path | None = Field(
        None,
        description="Triton's model repository, as a directory: the catalogue lists and describes what is in it; "
        "unset: it lists the models that the policy names",
    )
    catalogue_terms: str = Field(
        "1",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="terms of publishing that whoever publishes in the catalogue accepts by repeating this: a URL with "
        "their version in it, or the version alone",
    )
    console_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of its /metrics and /readyz; unset: not served"
    )
    console_poll: float = Field(
        5.0, gt=0, le=60, description="time between two polls of the issuer for what happens to its users; seconds"
    )
    console_reminder_url: SecretStr | None = Field(
        None, description="webhook (https) that is told of API tokens in use that expire soon; unset: only the log is"
    )
    console_events_poll: float = Field(
        1.0,
        gt=0,
        le=60,
        description="time between two polls of the stream of security events, if there is one; seconds",
    )
    console_signal_clients: str = Field(
        "",
        description="clients of that issuer whose logout tokens and admin callbacks are accepted, besides the "
        "console's own and those that the policy lists for the issuer; separated by commas",
    )
    console_trusted_hops: int = Field(
        1, ge=0, le=10, description="proxies in front of the console that add to X-Forwarded-For"
    )

    @field_validator("console_reminder_url")
    @classmethod
    def _is_webhook(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(url.get_secret_value() if url else "https://hook.example")
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or not (parts.scheme == "https" or local):
            raise ValueError("is not a URL of the form https://host/path (http only on loopback)")
        return url
