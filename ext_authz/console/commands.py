"""`tollgate console`."""

from __future__ import annotations

import click


@click.command()
def console() -> None:
    """Serve the console and its interfaces until SIGTERM.

    Settings come from the environment and the env file: see `tollgate settings`.
    """
    import asyncio

    from ext_authz.console.process import serve
    from ext_authz.console_settings import ConsoleSettings
    from ext_authz.settings import load_settings

    asyncio.run(serve(load_settings(ConsoleSettings)))
