"""The command `tollgate`. A wrong setting, policy or argument is one sentence on stderr and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points

import click

from ext_authz import __version__
from ext_authz.command_line import Lazy, LazyGroup
from ext_authz.errors import ConfigError, TollgateError, Unavailable

_COMMANDS = {
    "audit": Lazy("ext_authz.tokens.audit_commands:audit", "List the audit log, and verify that nobody changed it."),
    "bill": Lazy("ext_authz.billing.commands:bill", "Prices, accounts, drafts of bills, and final invoices."),
    "catalogue": Lazy(
        "ext_authz.catalogue.commands:catalogue", "Publish datasets, processors and models in the catalogue."
    ),
    "console": Lazy("ext_authz.console.commands:console", "Serve the console and its interfaces until SIGTERM."),
    "decisions": Lazy("ext_authz.ledger.commands:decisions", "List decisions: who called what, and why not."),
    "experiment": Lazy(
        "ext_authz.experiment.commands:experiment", "Judge a new version of a model, and change its weight."
    ),
    "explain": Lazy(
        "ext_authz.policytool.explain_commands:explain_recorded", "Explain a recorded decision, by its id."
    ),
    "filter": Lazy("ext_authz.filter.commands:serve_filter", "Stand in front of an MLflow server, until SIGTERM."),
    "gitlab": Lazy("ext_authz.gitlab.commands:serve_gitlab", "Learn who is in projects of a GitLab, until SIGTERM."),
    "ledger": Lazy(
        "ext_authz.ledger.publish_commands:ledger", "Publish decisions to Kafka, and export them as Parquet."
    ),
    "policy": Lazy("ext_authz.policytool.commands:policy", "Check, test, explain and compare policies."),
    "predictions": Lazy("ext_authz.predictions.commands:predictions", "List, export and delete what models answered."),
    "quota": Lazy("ext_authz.quotas.commands:quota", "See, reset and boost what limits have counted."),
    "revocations": Lazy("ext_authz.revocation.commands:revocations", "List revocations, their history, and lift them."),
    "revoke": Lazy(
        "ext_authz.revocation.commands:revoke", "Revoke a token, or all of a session, user, client or issuer."
    ),
    "settings": Lazy("ext_authz.settings_list:settings", "List all settings, their values and where those come from."),
    "tokens": Lazy("ext_authz.tokens.commands:tokens", "Make, list, renew and revoke API tokens; their signing keys."),
    "signals": Lazy("ext_authz.signals.commands:signals", "Be told by Keycloak what happens to its users."),
    "usage": Lazy("ext_authz.ledger.commands:usage", "Count calls by user, client, model, route, day."),
    "usage-worker": Lazy(
        "ext_authz.usage_worker.commands:usage_worker", "Move the ledger from Redis to Postgres, until SIGTERM."
    ),
}

_DEVSTACK = ("demo", "down", "models", "status", "up")
# By file, because no index has it: a package of this name there would be somebody else's.
_DEVSTACK_WHEEL = f"tollgate_devstack-{__version__}-py3-none-any.whl"


def _installed() -> dict[str, EntryPoint]:
    """Commands of other distributions, such as `tollgate-devstack`."""
    return {found.name: found for found in entry_points(group="tollgate.commands")}


class _Root(LazyGroup):
    """With the commands of other distributions."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_installed()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or _installed_command(cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """What was typed where no token belongs is not repeated."""
        try:
            return super().invoke(ctx)
        except click.UsageError as wrong:
            from ext_authz.observability.log import masked

            sentence = wrong.format_message()
            if masked(sentence) == sentence:
                raise
            raise click.UsageError(masked(sentence), wrong.ctx) from None


def _installed_command(name: str) -> click.Command | None:
    if (found := _installed().get(name)) is not None:
        command: click.Command = found.load()
        return command
    if name in _DEVSTACK:
        raise ConfigError(f"`tollgate {name}` is part of the development stack: install its wheel, {_DEVSTACK_WHEEL}")
    return None


_START = """\
Tollgate decides who may call which model, how often, and at what price.

  tollgate up                                 start everything on this machine
  tollgate policy check policy.yaml           find what is wrong with a policy
  tollgate decisions --user alice --since 1h  see what was decided, and why
  tollgate usage --by user                    see what was used this month
  tollgate revoke user --username alice       end access, on every replica

All commands: tollgate --help. All settings: tollgate settings.
"""
"""What one does most; every line can be pasted."""


def _use_env_file(_: click.Context, __: click.Parameter, file: str | None) -> None:
    if file is not None:
        os.environ["TOLLGATE_ENV_FILE"] = os.path.abspath(file)  # noqa: PTH100 - pathlib is not needed otherwise


@click.group(
    cls=_Root, lazy=_COMMANDS, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--env-file",
    metavar="FILE",
    callback=_use_env_file,
    expose_value=False,
    help="File with more settings, one TOLLGATE_NAME=VALUE per line; the same as TOLLGATE_ENV_FILE.",
)
@click.version_option(__version__, prog_name="tollgate")
@click.pass_context
def cli(context: click.Context) -> None:
    """Who may call which model, how often, and at what price."""
    if context.invoked_subcommand is None:
        click.echo(_START, nl=False)


@cli.command()
@click.option("--server", type=click.Choice(["auto", "h2corn", "grpcio"]), help="Which gRPC server to use.")
@click.option("--check", is_flag=True, help="Validate settings and policy, and exit.")
def serve(server: str | None, *, check: bool) -> None:
    """Answer Envoy's checks until SIGTERM.

    Settings come from the environment and the env file: see `tollgate settings`.
    """
    import asyncio

    from ext_authz.environment import env_file
    from ext_authz.policy.load import load_policy
    from ext_authz.settings import Settings, load_settings

    read = partial(load_settings, Settings, {"server": server} if server else None)
    settings = read()
    policy = load_policy(settings.policy, os.environ)
    if check:
        from ext_authz.tls import ensure_tls_usable

        ensure_tls_usable(settings)
        click.echo(f"good: policy {policy.hash}, routes: {len(policy.routes)}, issuers: {len(policy.issuers)}")
        return
    from ext_authz.observability import multiprocess

    multiprocess.prepare()
    from ext_authz.app import background
    from ext_authz.server.supervisor import serve as run

    sys.exit(asyncio.run(run(read, background(settings), env_file=env_file())))


@cli.command()
def migrate() -> None:
    """Bring the database's tables up to date."""
    import asyncio

    from ext_authz.db.migrate import migrate as apply
    from ext_authz.settings import MigrationSettings, load_settings

    applied = asyncio.run(apply(load_settings(MigrationSettings).database_url.get_secret_value()))
    click.echo("\n".join(applied) or "the tables are up to date")


@cli.command()
def env() -> None:
    """Print the settings of the running stack, for a shell.

    eval "$(tollgate env)" sets them. Exit code 2: no stack runs.
    """
    from shlex import quote

    from ext_authz.running_stack import running_directory, settings_of

    root = running_directory()
    if root is None:
        raise ConfigError("no stack runs on this machine: start one with tollgate up")
    click.echo(f'# of the stack in {root}; to set them: eval "$(tollgate env)"')
    for name, value in settings_of(root).items():
        click.echo(f"export {name}={quote(value)}")


def main() -> None:
    """Entry point: turns what is raised on purpose into one sentence and an exit code."""
    try:
        _ensure_text(sys.argv)
        cli(prog_name="tollgate")
    except ConfigError as wrong:
        sys.exit(_said(f"{wrong}", 2))
    except Unavailable as failure:
        how = "cannot be used" if failure.answers else "does not answer"
        sys.exit(_said(f"{failure.dependency} {how}: {failure.detail}", 1))
    except TollgateError as failure:
        sys.exit(_said(f"{failure}", 1))
    except OSError as failure:  # such as --out in a folder that does not exist, or a full disk
        if failure.strerror is None:
            raise
        where = "" if failure.filename is None else f"{failure.filename}: "
        sys.exit(_said(f"{where}{failure.strerror[:1].lower()}{failure.strerror[1:]}", 1))


def _ensure_text(arguments: Sequence[str]) -> None:
    """Bytes that are no text come as lone surrogates, which no store takes."""
    for number, argument in enumerate(arguments):
        if not argument.isascii() and any("\ud800" <= char <= "\udfff" for char in argument):
            raise ConfigError(f"argument {number} is not UTF-8")


def _said(sentence: str, status: int) -> int:
    from ext_authz.observability.log import masked

    click.echo(f"tollgate: {masked(sentence)}", err=True)
    return status
