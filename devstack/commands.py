"""The commands that this distribution adds to `tollgate`. Imports are inside: `tollgate --help` loads this module."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--detach", is_flag=True, help="Return when all parts are ready, and keep them running.")
@click.option("--observability", is_flag=True, help="Start Prometheus with our alerts, and a status page, too.")
@click.option("--idp", type=click.Choice(["embedded", "keycloak"]), help="Identity provider: a real Keycloak, or ours.")
def up(*, detach: bool, observability: bool, idp: str | None) -> None:
    """Start the whole stack on this machine.

    Settings come from the environment and the env file: see `tollgate settings`.
    """
    from devstack.stack import up as stack
    from devstack.stack.settings import load_stack_settings

    options = {"observability": observability or None, "idp": idp}
    settings = load_stack_settings({name: value for name, value in options.items() if value is not None})
    if detach:
        sys.exit(stack.detach(settings))
    stack.up(settings)


@click.command()
def down() -> None:
    """Stop the stack, and clean up after one that was killed."""
    from devstack.stack.settings import load_running_settings
    from devstack.stack.up import down as stop

    sys.exit(stop(load_running_settings()))


@click.command()
def status() -> None:
    """Show each part of the stack, and whether it answers."""
    from devstack.stack.settings import load_running_settings
    from devstack.stack.up import status as show

    sys.exit(show(load_running_settings()))


@click.command()
def demo() -> None:
    """Start the stack on free ports, take a tour, stop it.

    Exit code 1: something was not as it should be.
    """
    from devstack.demo.tour import take

    sys.exit(1 if take() else 0)
