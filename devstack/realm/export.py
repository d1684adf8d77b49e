"""A realm export in Keycloak's import format: what we use of it, checked whole before anything starts.

Fields that we do not use are ignored, as the same file starts a real Keycloak. Defaults are those of its importer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ext_authz.errors import ConfigError

Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]

_LIFESPAN = "access.token.lifespan"
_PLACEHOLDER = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:(?P<default>[^}\"\\]*))?\}")


class Composites(Struct, frozen=True):
    """The roles that a role brings along."""

    realm: tuple[str, ...] = ()
    client: dict[str, tuple[str, ...]] = {}


class Role(Struct, frozen=True):
    """A realm or client role."""

    name: Name
    description: str = ""
    composites: Composites = Composites()


class Roles(Struct, frozen=True):
    """All roles, by owner."""

    realm: tuple[Role, ...] = ()
    client: dict[str, tuple[Role, ...]] = {}


class Mapper(Struct, frozen=True, rename="camel"):
    """A protocol mapper; those of audiences and of groups have an effect here."""

    name: str
    protocol_mapper: str
    config: dict[str, str] = {}


class Client(Struct, frozen=True, rename="camel"):
    """An OAuth client as the export describes it."""

    client_id: Name
    id: str = ""
    name: str = ""
    enabled: bool = True
    admin_url: str = ""
    secret: str = ""
    public_client: bool = False
    bearer_only: bool = False
    standard_flow_enabled: bool = True
    direct_access_grants_enabled: bool = False
    service_accounts_enabled: bool = False
    full_scope_allowed: bool = True
    redirect_uris: tuple[str, ...] = ()
    web_origins: tuple[str, ...] = ()
    attributes: dict[str, str] = {}
    protocol_mappers: tuple[Mapper, ...] = ()

    @property
    def can_log_in(self) -> bool:
        """Whether any grant is open to this client."""
        flows = self.standard_flow_enabled or self.direct_access_grants_enabled or self.service_accounts_enabled
        return flows and not self.bearer_only

    @property
    def lifespan(self) -> int | None:
        """Lifespan of access tokens in seconds, where the client overrides the realm's."""
        text = self.attributes.get(_LIFESPAN, "")
        return int(text) if text else None


class Credential(Struct, frozen=True):
    """A password in plain text, as the import format allows."""

    type: str = "password"
    value: str = ""


class User(Struct, frozen=True, rename="camel"):
    """A person or, with `service_account_client_id`, a program."""

    username: Name
    id: str = ""
    enabled: bool = False
    email: str = ""
    email_verified: bool = False
    first_name: str = ""
    last_name: str = ""
    credentials: tuple[Credential, ...] = ()
    realm_roles: tuple[str, ...] = ()
    client_roles: dict[str, tuple[str, ...]] = {}
    groups: tuple[str, ...] = ()
    """Paths such as `/team`."""
    service_account_client_id: str = ""
    not_before: int = 0
    created_timestamp: int = 0
    """Milliseconds since the epoch."""


class Group(Struct, frozen=True, rename="camel"):
    """Users with common roles; members of a group in a group have only those of the inner one here."""

    name: Name
    id: str = ""
    path: str = ""
    realm_roles: tuple[str, ...] = ()
    client_roles: dict[str, tuple[str, ...]] = {}
    sub_groups: tuple[Group, ...] = ()


class RealmExport(Struct, frozen=True, rename="camel"):
    """The file."""

    realm: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+$")]
    enabled: bool = False
    access_token_lifespan: Seconds = 300
    access_code_lifespan: Seconds = 60
    sso_session_idle_timeout: Seconds = 1800
    sso_session_max_lifespan: Seconds = 36_000
    revoke_refresh_token: bool = False
    roles: Roles = Roles()
    clients: tuple[Client, ...] = ()
    groups: tuple[Group, ...] = ()
    users: tuple[User, ...] = ()


def load_export(path: Path, environ: Mapping[str, str] = os.environ) -> RealmExport:
    """Read and check a realm export. `${NAME:default}` in it stands for a variable of `environ`, as in Keycloak.

    Raises:
        ConfigError: one sentence with the place in the file and what would be right.
    """
    try:
        export = msgspec.json.decode(_filled_in(path.read_text(), environ), type=RealmExport)
    except OSError as error:
        raise ConfigError(f"realm export {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"realm export {path} is not UTF-8 text") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"realm export {path}: {error}") from None
    for mistake in _mistakes(export):
        raise ConfigError(f"realm export {path}: {mistake}")
    return export


def _filled_in(text: str, environ: Mapping[str, str]) -> str:
    """A name without a value and a default stays as it is."""

    def value(found: re.Match[str]) -> str:
        text = environ.get(found["name"], found["default"])
        return found[0] if text is None else msgspec.json.encode(text).decode()[1:-1]

    return _PLACEHOLDER.sub(value, text)


def _mistakes(export: RealmExport) -> Iterator[str]:
    if not export.enabled:
        yield "`enabled` is not true, so there is nothing to serve; set it to true"
    yield from _duplicates("clients", (client.client_id for client in export.clients))
    yield from _duplicates("users", (user.username.lower() for user in export.users))
    for client in export.clients:
        yield from client_mistakes(client)
    known = {client.client_id for client in export.clients}
    for user in export.users:
        yield from _user_mistakes(user, known)


def _duplicates(place: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{place}: {name!r} is there twice; keep one"
        seen.add(name)


def client_mistakes(client: Client) -> Iterator[str]:
    place = f"client {client.client_id!r}"
    if client.can_log_in and not client.public_client and client.secret.strip("*") == "":
        yield f"{place}: `secret` is missing or masked; write it in plain text, or set `publicClient` to true"
    lifespan = client.attributes.get(_LIFESPAN, "")
    if lifespan and not re.fullmatch(r"[1-9][0-9]{0,7}", lifespan):
        yield f"{place}: attribute {_LIFESPAN!r} is {lifespan!r}; it must be a whole number of seconds, 1 or more"


def _user_mistakes(user: User, clients: set[str]) -> Iterator[str]:
    place = f"user {user.username!r}"
    if any(credential.type == "password" and not credential.value for credential in user.credentials):
        yield f"{place}: the password has no plain `value`; hashed credentials only work in Keycloak itself"
    if user.service_account_client_id and user.service_account_client_id not in clients:
        yield f"{place}: `serviceAccountClientId` names {user.service_account_client_id!r}, which is no client here"
