"""The command `tollgate`. A wrong setting, policy or argument is one sentence on stderr and exit code 2."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Sequence

import click

from ext_authz import __version__
from ext_authz.errors import ConfigError, TollgateError, Unavailable
from ext_authz.observability.log import masked

_ELSEWHERE = {
    "demo": "devstack.demo.commands:demo",
    "down": "devstack.stack.commands:down",
    "explain": "ext_authz.policytool.past_command:explain",
    "policy": "ext_authz.policytool.commands:policy",
    "revocations": "ext_authz.revocation.commands:revocations",
    "revoke": "ext_authz.revocation.commands:revoke",
    "status": "devstack.stack.commands:status",
    "up": "devstack.stack.commands:up",
    "usage": "ext_authz.ledger.commands:usage",
    "usage-worker": "ext_authz.ledger.commands:usage_worker",
}


class _LazyGroup(click.Group):
    """Loads a command's module when it is asked for: `serve` must set up the metrics before anything imports them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, name = _ELSEWHERE[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """What was typed where no token belongs is not repeated."""
        try:
            return super().invoke(ctx)
        except click.UsageError as wrong:
            sentence = wrong.format_message()
            if masked(sentence) == sentence:
                raise
            raise click.UsageError(masked(sentence), wrong.ctx) from None


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="tollgate")
def cli() -> None:
    """Who may call which model, how often, and at what price."""


def _list_settings(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's callback
    if wanted:
        from devstack.stack.settings import StackSettings
        from ext_authz.settings import Settings, describe

        for title, kind in (("The service and its operators:", Settings), ("\n`tollgate up`:", StackSettings)):
            click.echo(title)
            for name, default, meaning in describe(kind):
                click.echo(f"  {name:30} {default:12} {meaning}")
        ctx.exit()


@cli.command()
@click.option(
    "--settings", is_flag=True, is_eager=True, expose_value=False, callback=_list_settings, help="list every setting"
)
@click.option("--server", type=click.Choice(["auto", "h2corn", "grpcio"]), help="which gRPC server carries the checks")
@click.option("--check", is_flag=True, help="only say whether settings and policy are good")
def serve(server: str | None, *, check: bool) -> None:
    """Answer Envoy's checks. Settings come from the environment: TOLLGATE_POLICY, TOLLGATE_REDIS_URL, ..."""
    from ext_authz.policy.load import load_policy
    from ext_authz.settings import load_settings

    settings = load_settings({"server": server} if server else None)
    policy = load_policy(settings.policy, os.environ)
    if check:
        from ext_authz.server.tls import ensure_usable

        ensure_usable(settings)
        click.echo(f"good: {len(policy.routes)} routes, {len(policy.issuers)} issuers, policy {policy.hash}")
        return
    from ext_authz.observability import multiprocess

    multiprocess.prepare()
    from ext_authz.app import background
    from ext_authz.server.supervisor import serve as run

    sys.exit(asyncio.run(run(settings, background(settings))))


@cli.command()
def migrate() -> None:
    """Bring the database's tables up to date."""
    from ext_authz.db.migrate import migrate as apply
    from ext_authz.settings import load_store_settings

    for name in asyncio.run(apply(load_store_settings().database_url.get_secret_value())):
        click.echo(name)


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


def _ensure_text(arguments: Sequence[str]) -> None:
    """Bytes that are no text come as lone surrogates, which no store takes."""
    for number, argument in enumerate(arguments):
        if not argument.isascii() and any("\ud800" <= char <= "\udfff" for char in argument):
            raise ConfigError(f"argument {number} is not UTF-8")


def _said(sentence: str, status: int) -> int:
    click.echo(f"tollgate: {masked(sentence)}", err=True)
    return status
