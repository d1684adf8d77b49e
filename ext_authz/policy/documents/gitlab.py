"""`gitlab:` of an issuer - a GitLab, whose users and CI jobs call."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from ext_authz.policy.documents.base import Part, Shape, Text

GitlabPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200),
    Shape("the path of a group or project, such as team/forecast"),
]


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

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not (self.applications or self.jobs):
            raise ValueError("nobody is accepted: write applications, for users, or jobs, for CI jobs")
        return self
