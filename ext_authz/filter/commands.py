"""`tollgate filter`."""

from __future__ import annotations

import click


@click.command("filter")
def serve_filter() -> None:
    """Stand in front of an MLflow server, until SIGTERM.

    Passes on what the roles of a caller allow. Settings come from the environment and the env file: see `tollgate
    settings`.
    """
    import asyncio

    from ext_authz.filter.process import serve
    from ext_authz.filter_settings import FilterSettings
    from ext_authz.settings import load_settings

    asyncio.run(serve(load_settings(FilterSettings)))
