"""What the application is told by its environment: SENTIMENT_..., read once, with every error in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from ext_authz.errors import ConfigError

PREFIX = "SENTIMENT_"
S = TypeVar("S", bound="StoreSettings")


class StoreSettings(BaseModel):
    """Of commands about feedback."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: SecretStr = Field(description="Postgres, where feedback is kept")
    feedback_days: int = Field(180, ge=1, le=36_500, description="days that feedback is kept")


class Settings(StoreSettings):
    """Of the process that serves."""

    listen: str = Field("127.0.0.1:9020", description="host:port, or unix:PATH")
    public_url: str = Field(description="origin at which people reach the door, such as https://models.example.com")
    models_url: str = Field("", description="origin at which this process reaches it; empty: the same")
    issuer: str = Field(description="the realm that people sign in at: the URL that its tokens have as `iss`")
    client_id: str = Field("sentiment-app", min_length=1, description="client of the application there")
    client_secret: SecretStr = Field(description="secret of that client")

    @field_validator("public_url", "models_url")
    @classmethod
    def _is_origin(cls, url: str) -> str:
        """As browsers write it in `Origin`, with which it is compared."""
        parts = urlsplit(url.lower())
        beyond = parts.path or parts.query or parts.fragment or "@" in parts.netloc
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or beyond):
            raise ValueError("is not an origin: write https://HOST without a path")
        return url.lower().removesuffix(":443" if parts.scheme == "https" else ":80")

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not listen.startswith("unix:/") and not (host and port.isdecimal() and 0 < int(port[:6]) < 65536):
            raise ValueError("is not of the form host:port, or unix:/PATH")
        return listen


def loaded(kind: type[S], environ: Mapping[str, str]) -> S:
    """Raises ConfigError, which shows no secret."""
    given = {name: environ[PREFIX + name.upper()] for name in kind.model_fields if environ.get(PREFIX + name.upper())}
    try:
        return kind.model_validate(given)
    except ValidationError as invalid:
        wrong = [_sentence(kind, str(error["loc"][0]), error["type"], error["msg"]) for error in invalid.errors()]
        raise ConfigError("; ".join(wrong)) from None


def _sentence(kind: type[StoreSettings], field: str, what: str, message: str) -> str:
    text = f"is required: {kind.model_fields[field].description}" if what == "missing" else message
    return f"{PREFIX}{field.upper()}: {text.removeprefix('Value error, ')}"
