"""`gitlab:` of an issuer - a GitLab, whose users and CI jobs call."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from ext_authz.policy.documents.base import Lasting, Part, Shape, Text, at_most

GitlabPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200),
    Shape("the path of a group or project, such as team/forecast"),
]
Level = Literal["guest", "planner", "reporter", "developer", "maintainer", "owner"]
Action = Literal["read", "call", "create", "update", "delete"]
_READ: frozenset[Action] = frozenset({"read"})
MOST = 50
"""Projects; with every action 250 roles, and a condition reads 300."""


class GitlabProjectDocument(Part):
    """A project of GitLab, and what its roles are called here."""

    roles: tuple[Text, ...] = Field(default=(), max_length=2, examples=[["mlflow:forecast"]])
    """What its roles begin with; a colon and the action follow: mlflow:forecast:read. Default: gitlab: and the path,
    as in gitlab:team/forecast:read."""


class GitlabLevelsDocument(Part):
    """The least access level that an action takes."""

    read: Level = Field(default="reporter", examples=["guest"])
    """Of the action read."""
    call: Level = Field(default="reporter", examples=["developer"])
    """Of the action call."""
    create: Level = Field(default="developer", examples=["maintainer"])
    """Of the action create."""
    update: Level = Field(default="developer", examples=["maintainer"])
    """Of the action update."""
    delete: Level = Field(default="maintainer", examples=["owner"])
    """Of the action delete."""


class GitlabRightsDocument(Part):
    """Roles that users have because of projects in GitLab. `tollgate gitlab` asks it; a webhook makes changes take
    effect at once."""

    projects: dict[GitlabPath, GitlabProjectDocument] = Field(
        default={}, max_length=MOST, examples=[{"team/forecast": {"roles": ["mlflow:forecast"]}}]
    )
    """By their path, exactly as GitLab writes it."""
    catalogue: frozenset[GitlabPath] = Field(default=frozenset(), max_length=256, examples=[["team", "lab/forecast"]])
    """Groups and projects, by their path: those of them with the topics `sharinghub:aimodel`, `sharinghub:dataset` and
    `sharinghub:processor` are in the catalogue, for whoever has the action read there. Whoever can make a project in
    such a group writes into the catalogue."""
    levels: GitlabLevelsDocument = GitlabLevelsDocument()
    """Which access level each action takes."""
    internal: frozenset[Action] = Field(default=_READ, examples=[["read", "call"]])
    """What every user of this GitLab may do in projects that are internal there. Write [] if it has external users:
    nothing tells them apart here."""
    public: frozenset[Action] = Field(default=_READ, examples=[["read", "call"]])
    """The same of public projects. Nobody calls without a token."""
    stale: Annotated[Lasting, at_most("1h", "rights that were taken away would live on")] = "10m"
    """For how long an answer of GitLab gives rights, at most 1h."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.projects or self.catalogue):
            raise ValueError("no project gives rights: write projects, or catalogue")
        return self


class GitlabDocument(Part):
    """Whose tokens of a GitLab are accepted: ID tokens of users, and the id_tokens of CI jobs.

    Keys are at {issuer}/oauth/discovery/keys, groups in groups_direct. A job has no roles and no groups: those in its
    token are of whoever started it. What a project's jobs may do is for conditions over kept claims to say.
    """

    applications: frozenset[Text] = Field(default=frozenset(), max_length=64, examples=[["2f7c9a51e0d3"]])
    """OAuth applications of GitLab, by their id, whose users are accepted. A user's ID token has it as aud."""
    jobs: frozenset[GitlabPath] = Field(default=frozenset(), max_length=256, examples=[["team", "research/forecast"]])
    """Groups and projects whose CI jobs are accepted, by their path; a group with all that is in it. Anybody who can
    run a job can write the audience into it, so there is no default."""
    rights: GitlabRightsDocument | None = None
    """Roles of users by project."""

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not (self.applications or self.jobs):
            raise ValueError("nobody is accepted: write applications, for users, or jobs, for CI jobs")
        if self.rights and not self.applications:
            raise ValueError("rights are of users, and none are accepted: write applications")
        return self
