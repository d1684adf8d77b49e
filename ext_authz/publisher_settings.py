"""Every setting of `tollgate ledger publish`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from ext_authz.settings import DatabaseSettings


class PublisherSettings(DatabaseSettings):
    """Which broker, and who it lets in."""

    beside_stack: ClassVar[bool] = False

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level written")
    kafka_servers: str = Field(
        pattern=r"^[^\s,/@:]+:[0-9]{1,5}(,[^\s,/@:]+:[0-9]{1,5}){0,15}$",
        max_length=2000,
        description="brokers of Kafka to begin with: host:port,host:port",
    )
    kafka_topic: str = Field(
        "tollgate.decisions", pattern=r"^[A-Za-z0-9._-]{1,249}$", description="topic that decisions are published to"
    )
    kafka_source: str = Field(
        "/tollgate",
        pattern=r"^[A-Za-z0-9/:._~-]{1,255}$",
        description="source (CloudEvents) of the events: another one for each deployment that publishes to the topic",
    )
    kafka_security: Literal["tls", "plaintext"] = Field(
        "tls", description="plaintext only where nobody else is on the network"
    )
    kafka_ca_file: Path | None = Field(
        None, description="PEM CA certificates that the brokers' are signed by; unset: the system's"
    )
    kafka_cert_file: Path | None = Field(None, description="PEM certificate that the brokers know this client by")
    kafka_key_file: Path | None = Field(None, description="PEM private key of it")
    kafka_user: str | None = Field(None, min_length=1, max_length=255, description="user name (SASL); only over TLS")
    kafka_password: SecretStr | None = Field(None, min_length=1, description="password of this user")
    kafka_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="how the user is authenticated"
    )

    @field_validator("kafka_ca_file", "kafka_cert_file", "kafka_key_file")
    @classmethod
    def _is_readable(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                path.read_bytes()
            except OSError as wrong:
                raise ValueError(f"cannot read {path} ({wrong.strerror})") from None
        return path

    @model_validator(mode="after")
    def _secured(self) -> Self:
        files = self.kafka_ca_file, self.kafka_cert_file, self.kafka_key_file
        if self.kafka_security == "plaintext" and (self.kafka_user or any(files)):
            raise ValueError("TOLLGATE_KAFKA_SECURITY: plaintext goes without a user, and without certificates")
        if bool(self.kafka_user) != bool(self.kafka_password):
            raise ValueError("TOLLGATE_KAFKA_USER, TOLLGATE_KAFKA_PASSWORD: one needs the other")
        if bool(self.kafka_cert_file) != bool(self.kafka_key_file):
            raise ValueError("TOLLGATE_KAFKA_CERT_FILE, TOLLGATE_KAFKA_KEY_FILE: one needs the other")
        return self
