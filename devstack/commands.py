"""The commands that this distribution adds to `tollgate`. Imports are inside: `tollgate --help` loads this module."""

from __future__ import annotations

import sys

import click

from ext_authz.report import by_option, operator


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


@click.group()
def models() -> None:
    """Register trained models, and promote or deploy them to Triton.

    The registry is MLflow's: a file in the checkout, or the server that MLFLOW_TRACKING_URI names.
    """


@models.command()
@click.argument("name")
def register(name: str) -> None:
    """Add what `dvc repro` exported to the registry.

    It is a new version of the model, with the alias `candidate`.
    """
    _registry("register", name)


@models.command()
@click.argument("name")
@click.argument("version")
@click.option("--to", metavar="N", help="The version in Triton. Default: the highest of those that training fills.")
def promote(name: str, version: str, to: str | None) -> None:
    """Put a version of the registry where Triton gets it.

    VERSION is a number or an alias. It must pass its gate. With TOLLGATE_MODELS_SIGNING_KEY it is signed.
    """
    _registry("promote", name, version, *([f"--to={to}"] if to else []))


@models.command()
@click.argument("name")
@click.argument("version")
@click.option("--to", metavar="N", help="The version in Triton. Default: the highest of those that training fills.")
@by_option
def deploy(name: str, version: str, to: str | None, by: str) -> None:
    """Bring a version of the registry to callers of this stack.

    VERSION is a number or an alias. It is fetched and verified, must pass its gate, is built and loaded into Triton,
    which must be ready with it, and the catalogue must have it. A step that fails brings back what was served before.
    Exit code 1: it was not deployed.
    """
    from devstack.stack.deployment import deploy as deployed
    from devstack.stack.deployment import note
    from devstack.stack.directory import StateDirectory
    from devstack.stack.settings import load_running_settings

    settings = load_running_settings()
    record = deployed(settings, StateDirectory(settings.state_dir), (name, version), to, by or operator())
    note(settings, record)
    sys.exit(record.outcome != "deployed")


def _registry(*arguments: str) -> None:
    from devstack.stack.settings import load_stack_settings
    from devstack.stack.triton import registry

    sys.exit(registry(load_stack_settings(), *arguments))
