"""`tollgate gitlab`."""

from __future__ import annotations

import click


@click.command("gitlab")
def serve_gitlab() -> None:
    """Learn who is in projects of a GitLab, until SIGTERM.

    Asks it every minute, and at once when its webhook says that something happened. Settings come from the environment
    and the env file: see `tollgate settings`.
    """
    import asyncio

    from ext_authz.gitlab.process import serve
    from ext_authz.gitlab_settings import GitlabSettings
    from ext_authz.settings import load_settings

    asyncio.run(serve(load_settings(GitlabSettings)))
