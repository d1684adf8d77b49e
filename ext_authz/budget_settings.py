"""How the usage worker looks after budgets, and whom it tells."""

from __future__ import annotations

import re
from base64 import b64decode
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from pydantic import Field, SecretStr, field_validator, model_validator

from ext_authz.environment import FromEnvironment

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECRET = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")
ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}")
"""Of mail, as HTML forms take it, without names and comments."""


class MailServer(Struct, frozen=True):
    """Where mail is handed over."""

    host: str
    port: int
    tls: bool
    """From the first byte; else by STARTTLS, but on this machine, where there is nothing in between."""
    user: str
    password: str
    sender: str

    @property
    def is_here(self) -> bool:
        return self.host in _LOOPBACK


class BudgetSettings(FromEnvironment):
    """Part of the settings of the usage worker."""

    budgets_every: float | None = Field(
        None, ge=1, le=3600, description="seconds between two looks at a budget; unset: nobody looks after budgets"
    )
    budget_webhook: SecretStr | None = Field(
        None, description="webhook (https) that is told of budgets; unset: only the log and mail are"
    )
    budget_webhook_key: SecretStr | None = Field(
        None, description="secret that signs these requests: whsec_ and 24 to 64 bytes in base64 (Standard Webhooks)"
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="mail server: smtps://user:password@host:465, or smtp://user:password@host:587 (STARTTLS); unset: "
        "no mail is sent",
    )
    smtp_from: str | None = Field(None, description="address that mail is from")

    @field_validator("budget_webhook")
    @classmethod
    def _is_webhook(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(url.get_secret_value() if url else "https://hook.example")
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not parts.hostname or not (parts.scheme == "https" or local):
            raise ValueError("is not a URL of the form https://host/path (http only on loopback)")
        return url

    @field_validator("budget_webhook_key")
    @classmethod
    def _is_secret(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            _decoded(key)
        return key

    @field_validator("smtp_url")
    @classmethod
    def _is_mail_server(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(url.get_secret_value() if url else "smtps://mail.example")
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("is not a URL of the form smtps://user:password@host:465 or smtp://user:password@host:587")
        if bool(parts.username) != bool(parts.password):
            raise ValueError("has a user or a password without the other")
        return url

    @field_validator("smtp_from")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        if address is not None and not ADDRESS.fullmatch(address):
            raise ValueError("is not an address such as tollgate@models.example")
        return address

    @model_validator(mode="after")
    def _go_together(self) -> BudgetSettings:
        if bool(self.budget_webhook) != bool(self.budget_webhook_key):
            raise ValueError("TOLLGATE_BUDGET_WEBHOOK and TOLLGATE_BUDGET_WEBHOOK_KEY go together: set both, or none")
        if bool(self.smtp_url) != bool(self.smtp_from):
            raise ValueError("TOLLGATE_SMTP_URL and TOLLGATE_SMTP_FROM go together: set both, or none")
        return self

    @property
    def webhook(self) -> tuple[str, bytes] | None:
        """Address and key."""
        if self.budget_webhook is None or self.budget_webhook_key is None:
            return None
        return self.budget_webhook.get_secret_value(), _decoded(self.budget_webhook_key)

    @property
    def mail_server(self) -> MailServer | None:
        if self.smtp_url is None or self.smtp_from is None:
            return None
        parts = urlsplit(self.smtp_url.get_secret_value())
        tls = parts.scheme == "smtps"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        port = parts.port or (465 if tls else 587)
        return MailServer(parts.hostname or "", port, tls, user, password, self.smtp_from)


def _decoded(key: SecretStr) -> bytes:
    match = _SECRET.fullmatch(key.get_secret_value())
    try:
        found = b64decode(match[1], validate=True) if match else b""
    except ValueError:
        found = b""
    if not 24 <= len(found) <= 64:
        raise ValueError("is not whsec_ and 24 to 64 bytes in base64")
    return found
