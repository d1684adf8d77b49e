"""What all commands share. This module is imported by every `tollgate`, so it imports click alone."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from click.exceptions import NoSuchCommand
from click.shell_completion import CompletionItem

C = TypeVar("C", bound=Callable[..., Any])

_MAX_BYTES = 1_000_000
"""Of standard input."""
STANDARD_INPUT = Path("-")
POLICY_FILE = click.Path(exists=True, allow_dash=True, path_type=Path)
"""A file, a directory, or - for standard input."""


def policy_argument(command: C) -> C:
    """The argument `policy`: a path, or the setting."""
    return click.argument("policy", type=POLICY_FILE, required=False, callback=policy_or_setting)(command)


def policy_or_setting(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """A callback of click, which also calls it while a shell completes a command."""
    if path is not None or context.resilient_parsing:
        return path
    from ext_authz.errors import ConfigError
    from ext_authz.settings import PolicySettings, load_settings

    setting = load_settings(PolicySettings).policy
    if setting is None:
        raise ConfigError("no policy: write a file, a directory, or - for standard input, or set TOLLGATE_POLICY")
    return setting


class StandardInput(click.ParamType[str]):
    """An option that reads a token, and takes only `-`: other users of the machine can read command lines."""

    name = "-"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Standard input. What was written in place of `-` is not repeated."""
        if value != "-":
            self.fail("a token comes through standard input: write -", param, ctx)
        return sys.stdin.buffer.read(_MAX_BYTES).decode(errors="replace")


def bare(token: str) -> str:
    """Without surrounding blanks and the word Bearer."""
    return token.strip().removeprefix("Bearer ").strip()


class Lazy(NamedTuple):
    """A command that is imported when it runs."""

    target: str
    """As `module:attribute`."""
    summary: str
    """Its line in the list of commands."""


class LazyGroup(click.Group):
    """Imports a command only when it runs (https://click.palletsprojects.com/en/stable/complex/#lazily-loading-subcommands):
    Redis, Postgres, HTTP and gRPC together take over a second, and `serve` must set up the metrics before anything
    imports them."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **others: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*args, **others)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy:
            command: click.Command = pkgutil.resolve_name(self.lazy[cmd_name].target)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As of the base class, whose hints know only commands that are imported."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as unknown:
            raise NoSuchCommand(unknown.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As of the base class, which would import every command."""
        names = (name for name in self.list_commands(ctx) if name.startswith(incomplete))
        commands = [CompletionItem(name, help=self._summary(ctx, name)) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(ctx, name)) for name in self.list_commands(ctx)])

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=200) if command else ""
