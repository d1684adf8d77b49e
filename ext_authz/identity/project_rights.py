"""Roles that a user of a GitLab has because of projects there: by access level, and by who may see a project.

They are not in the token. `owners/projects.py` has what is known of the projects, and `tollgate gitlab` learns it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.identity.gitlab import JOB
from ext_authz.identity.identity import Identity, plain
from ext_authz.policy.issuers import ProjectRights

READ = "read"
GUEST = 10
"""The least access level of a member."""
"""An action of the policy."""

Listener = Callable[[str, frozenset[str] | None], None]
"""Gets the name of an issuer, and the users there whose rights may be others than before; None: all."""


class Project(Struct, frozen=True):
    """As GitLab has it."""

    visibility: str
    """private, internal or public."""
    members: Mapping[str, int]
    """Access levels by the numbers of users, those of the groups above included."""
    number: int | None = None
    """GitLab's, which a project keeps when its path changes. None: there is none at this path."""


class Projects(Protocol):
    """`owners.projects.KnownProjects` in a worker."""

    def roles(self, issuer: str, user: str) -> frozenset[str]:
        """Of an issuer that gives none, none.

        Raises:
            Unavailable: "postgres": it is not known what is known.
        """

    def listen(self, listener: Listener) -> None:
        """Call it with every change, after `roles` has it."""


def roles_of(user: str, rights: ProjectRights, projects: Mapping[str, Project]) -> frozenset[str]:
    """`projects`: those that are known, by their path."""
    return frozenset(
        f"{beginning}:{action}"
        for path, beginnings in rights.projects.items()
        if path in projects
        for action in _actions(projects[path], user, rights)
        for beginning in beginnings
    )


def with_rights(identity: Identity, projects: Projects) -> Identity:
    """With the roles of its projects. CI jobs have none: who started one may not know what it does.

    Raises:
        Unavailable
    """
    if identity.principal.subject.startswith(JOB):
        return identity
    found = projects.roles(identity.issuer_name, identity.principal.subject)
    if found <= identity.roles:
        return identity
    roles = identity.roles | found
    return replace(identity, principal=replace(identity.principal, roles=plain(sorted(roles))), roles=roles)


def access_level(identity: Identity | None, issuer: str, project: Project, rights: ProjectRights) -> int:
    """What the caller may do in this project of `issuer`, on SharingHub's scale: 0 nothing, 1 is a member and no more,
    2 read, 3 create or update too, 4 delete too.

    A public project everybody may read, who has no credential too. API tokens and CI jobs are not the user."""
    user = _user(identity, issuer)
    held = _actions(project, user, rights)
    if not user:
        return 2 if project.visibility == "public" and READ in held else 0
    if READ in held:
        return 4 if "delete" in held else 3 if held & {"create", "update"} else 2
    return 1 if project.members.get(user, 0) >= GUEST else 0


def may_read(identity: Identity | None, issuer: str, project: Project, rights: ProjectRights) -> bool:
    """Whether the caller finds this project."""
    return access_level(identity, issuer, project, rights) >= 2


def _user(identity: Identity | None, issuer: str) -> str:
    """Their number in this GitLab; empty: somebody else, or what only acts for a user."""
    if identity is None or identity.issuer_name != issuer or identity.grant:
        return ""
    user = identity.principal.subject
    return "" if user.startswith(JOB) else user


def _actions(project: Project, user: str, rights: ProjectRights) -> frozenset[str]:
    level = project.members.get(user, 0)
    held = frozenset(action for action, least in rights.levels.items() if level >= least)
    return held | rights.visible.get(project.visibility, frozenset())
