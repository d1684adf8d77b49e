"""Every setting of `tollgate gitlab`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from ext_authz.settings import DatabaseSettings, PolicySettings, TokenSettings


class GitlabSettings(DatabaseSettings, PolicySettings, TokenSettings):
    """What asks a GitLab about projects, and is told by it."""

    beside_stack: ClassVar[bool] = False

    policy: Path = Field(description="the policy: a file, or a directory of files")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level written")
    gitlab_issuer: str = Field(
        "", description="the GitLab, by its name in the policy; unset: the only one that has gitlab.rights"
    )
    gitlab_url: str = Field(
        "",
        pattern=r"^(https?://[^?#@\s]+)?$",
        description="where its API is, without /api/v4; unset: the issuer's address",
    )
    gitlab_token: SecretStr = Field(
        min_length=1, description="token of GitLab with the scope read_api, of whoever sees the projects and members"
    )
    gitlab_hook_token: SecretStr = Field(
        min_length=16, description="secret token of the webhook, which GitLab sends as X-Gitlab-Token"
    )
    gitlab_listen: str = Field(
        "127.0.0.1:9030", pattern=r"^[^\s/]+:[0-9]{1,5}$", description="where webhooks are taken: host:port"
    )
    gitlab_poll: float = Field(
        60.0, gt=0, le=600, description="time between two rounds over all projects without a webhook; seconds"
    )
