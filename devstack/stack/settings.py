"""Settings of `tollgate up`: read once from the environment (prefix TOLLGATE_), validated whole, frozen.

A part whose address is given here is not started; it must answer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator

from ext_authz.db.store_urls import PostgresUrl, RedisUrl
from ext_authz.environment import FromEnvironment, read_settings
from ext_authz.errors import ConfigError
from ext_authz.policy.documents.base import shape
from ext_authz.policy.documents.web import Origin, ResourceDocument
from ext_authz.render.endpoints import triton
from ext_authz.running_stack import LOCK, absolute, running_directory
from ext_authz.settings import known_fields

_PACKAGE = Path(__file__).resolve().parents[1]
_BESIDE = _PACKAGE.parent if (_PACKAGE.parent / "model_servers").is_dir() else Path(sys.prefix, "share", "tollgate")
"""What no wheel has: in a checkout, or where the archive for machines without network puts it."""
OWN_ADDRESSES = "TOLLGATE_STACK_ADDRESSES"
"""In the settings of a running stack: its addresses of parts that the stack itself starts, separated by blanks."""
REPLACEABLE = ("database_url", "redis_url", "issuer", "public_url")
"""The settings that name such addresses when they are given."""
Port = Annotated[int, Field(ge=1, le=65535)]


class StackSettings(FromEnvironment):
    """Every port is on loopback. What needs no port has a socket in the state directory."""

    empty_is_unset: ClassVar[bool] = True

    state_dir: Path = Field(Path(".state"), description="where data, logs and generated files live")
    policy: Path = Field(_PACKAGE / "stack" / "policy.yaml", description="the policy file")
    realm: Path = Field(_PACKAGE / "realm" / "realm-tollgate.json", description="realm export of the identity provider")
    models: Path = Field(_BESIDE / "model_servers", description="the models' project, with its `.venvs`")
    applications: Path = Field(
        _BESIDE / "applications",
        description="the folder of the sentiment application, which is served if it is there",
    )
    models_public_key: Path | None = Field(
        None, description="PEM: promoted models are served only if they are signed with this Ed25519 key"
    )
    models_signing_key: Path | None = Field(
        None, description="PEM: the Ed25519 private key that `tollgate models promote` signs with"
    )

    model_answer_seconds: float = Field(
        60, ge=1, description="a model that answers nothing for so long, though it is asked, is loaded again"
    )
    model_load_seconds: float = Field(
        300, ge=1, description="a model may take so long to load, when it is loaded again"
    )

    database_url: PostgresUrl | None = Field(None, description="a Postgres of your own, instead of starting one")
    redis_url: RedisUrl | None = Field(None, description="a Redis of your own, instead of starting one")
    idp: Literal["embedded", "keycloak"] = Field(
        "embedded", description="the identity provider to start: the development realm, or a real Keycloak (needs Java)"
    )
    keycloak_home: Path | None = Field(
        None, description="an unpacked Keycloak; unset: the one that `make keycloak` fetched"
    )
    issuer: str | None = Field(None, description="a realm of your own: the URL that its tokens have as `iss`")
    triton: str | None = Field(None, description="a Triton of your own: host:http_port:grpc_port")
    public_url: str | None = Field(
        None, description="`resource` of the demo policy: where callers reach Envoy; unset: http://127.0.0.1:ENVOY_PORT"
    )

    console_client_secret: SecretStr | None = Field(
        None, description="secret of the client tollgate-console at a realm of your own, so that people can sign in"
    )

    envoy_port: Port = Field(8080, description="Envoy, which callers use")
    listen_port: Port = Field(9000, description="the authorizer's gRPC listener")
    admin_port: Port = Field(9001, description="the authorizer's /metrics and /readyz")
    usage_port: Port = Field(9002, description="the usage worker's /metrics")
    console_port: Port = Field(9010, description="the console's pages and REST interface")
    console_grpc_port: Port = Field(9011, description="the console's gRPC interface")
    console_metrics_port: Port = Field(9012, description="the console's /metrics and /readyz")
    idp_port: Port = Field(8081, description="the identity provider")
    postgres_port: Port = Field(5433, description="Postgres")
    redis_port: Port = Field(6380, description="Redis")
    prometheus_port: Port = Field(9095, description="Prometheus, with --observability")
    status_port: Port = Field(9003, description="the status page, with --observability")

    observability: bool = Field(default=False, description="start Prometheus and the status page too")
    prometheus: Path | None = Field(None, description="the program; unset: the one in PATH")
    monitoring_files: Path = Field(
        _PACKAGE / "monitoring" / "files", description="the folder with `rules` and `dashboards`"
    )

    @field_validator(
        "state_dir",
        "policy",
        "realm",
        "models",
        "applications",
        "monitoring_files",
        "prometheus",
        "keycloak_home",
        "models_public_key",
        "models_signing_key",
    )
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path and absolute(path)

    @field_validator("policy", "realm")
    @classmethod
    def _is_file(cls, path: Path) -> Path:
        if not path.is_file():
            raise ValueError(f"no file at {path}")
        return path

    @field_validator("realm")
    @classmethod
    def _is_realm(cls, path: Path) -> Path:
        try:
            realm_name(path)
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{path} is not a realm export: JSON with the realm's name under `realm`") from None
        return path

    @field_validator("issuer")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise ValueError("is not a URL of the form https://host/realms/name")
        return url

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, url: str | None) -> str | None:
        try:
            return url and ResourceDocument(url=url).url
        except ValidationError:
            raise ValueError(f"is not {shape(Origin).text}") from None

    @field_validator("triton")
    @classmethod
    def _is_triton(cls, address: str | None) -> str | None:
        try:
            if address:
                triton(address)
        except ConfigError:
            raise ValueError("is not of the form host:http_port:grpc_port, such as 10.0.0.7:8000:8001") from None
        return address


def load_stack_settings(overrides: Mapping[str, object] | None = None) -> StackSettings:
    """Read the environment; `overrides` win.

    Raises:
        ConfigError: one sentence that names every wrong setting and never shows a secret.
    """
    return read_settings(StackSettings, {**dict.fromkeys(_sourced()), **(overrides or {})}, known_fields())


def load_running_settings() -> StackSettings:
    """For commands about a stack: that of this folder, whether it runs or not, else the one that runs elsewhere."""
    settings = load_stack_settings()
    if (settings.state_dir / LOCK).exists() or not (elsewhere := running_directory()):
        return settings
    return load_stack_settings({"state_dir": elsewhere})


def _sourced() -> Iterator[str]:
    """Addresses that only `tollgate env` put into the environment: they are those of our own parts."""
    own = os.environ.get(OWN_ADDRESSES, "").split()
    return (name for name in REPLACEABLE if os.environ.get(f"TOLLGATE_{name.upper()}") in own)


def realm_name(export: Path) -> str:
    """The realm's name, which is part of its issuer's URL."""
    return str(json.loads(export.read_bytes())["realm"])
