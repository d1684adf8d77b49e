"""What a caller may do: roles of the form `mlflow:PROJECT:ACTION`, as the authorizer has verified them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from msgspec import Struct
from starlette.datastructures import Headers

from ext_authz.filter.endpoints import Action
from ext_authz.filter.refusals import forbidden

PROJECT = r"[a-z0-9][a-z0-9-]{0,31}"
EVERY = "*"
"""In the place of a project or of an action."""

_ROLE = re.compile(rf"mlflow:(?P<project>{PROJECT}|\*):(?P<action>read|create|update|delete|\*)", re.ASCII)
_USER, _ROLES = "x-user-id", "x-user-roles"
_NOBODY = "-"
"""What the authorizer writes for calls of public routes."""


class Rights(Struct, frozen=True):
    """Of one caller."""

    user: str
    actions: Mapping[str, frozenset[Action]]
    """By project."""

    def allows(self, project: str, action: Action) -> bool:
        return any(action in self.actions.get(name, ()) for name in (project, EVERY))

    def knows(self, project: str) -> bool:
        """Whether the caller has any part in it: then it is no secret that something in it exists."""
        return any(self.actions.get(name) for name in (project, EVERY))

    def ensure(self, project: str, action: Action) -> None:
        """Raises Refused."""
        if not self.allows(project, action):
            raise forbidden(f"this takes the role mlflow:{project}:{action}")

    def readable(self) -> tuple[str, ...]:
        """Projects, sorted; `(EVERY,)`: all."""
        if self.allows(EVERY, Action.READ):
            return (EVERY,)
        return tuple(sorted(project for project, actions in self.actions.items() if Action.READ in actions))


def rights_of(headers: Headers) -> Rights:
    """By the headers that the authorizer overwrites, each exactly once.

    Raises:
        Refused: nobody is signed in.
    """
    users, roles = headers.getlist(_USER), headers.getlist(_ROLES)
    if len(users) != 1 or len(roles) != 1 or users[0] in ("", _NOBODY):
        raise forbidden("nobody is signed in: the route of this application must not be public, nor avoid the door")
    found: dict[str, frozenset[Action]] = {}
    for project, actions in _granted(roles[0]):
        found[project] = found.get(project, frozenset()) | actions
    return Rights(users[0], found)


def _granted(roles: str) -> Iterator[tuple[str, frozenset[Action]]]:
    for role in map(unquote, roles.split(",")):
        if match := _ROLE.fullmatch(role):
            action = match["action"]
            yield match["project"], frozenset(Action) if action == EVERY else frozenset({Action(action)})
