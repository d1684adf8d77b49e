"""Options that both renderings take, and how options become places, bounds and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TypeVar

import click

from ext_authz.errors import ConfigError
from ext_authz.render.bounds import Bounds
from ext_authz.render.places import Triton, triton

T = TypeVar("T")
Command = Callable[..., None]

PORT = click.IntRange(1, 65535)
policy_argument = click.argument("policy", type=click.Path(exists=True, path_type=Path), envvar="TOLLGATE_POLICY")

_SECONDS = click.FloatRange(0.001, 86_400)
_BYTES = click.IntRange(1024, 2**31 - 1)
_DEFAULT = Bounds()


def with_bounds(command: Command) -> Command:
    """Adds the options of `Bounds`, and hands them over as one."""

    @click.option("--check-timeout", type=_SECONDS, default=_DEFAULT.check, help="Seconds for one check.")
    @click.option(
        "--request-timeout",
        type=_SECONDS,
        default=_DEFAULT.request,
        help="Seconds to arrive, and to be answered.",
    )
    @click.option("--max-rest-bytes", type=_BYTES, default=_DEFAULT.rest_bytes, help="Largest body of a REST call.")
    @click.option("--max-grpc-bytes", type=_BYTES, default=_DEFAULT.grpc_bytes, help="Largest gRPC message.")
    @wraps(command)
    def bounded(
        *,
        check_timeout: float,
        request_timeout: float,
        max_rest_bytes: int,
        max_grpc_bytes: int,
        **others: object,
    ) -> None:
        bounds = Bounds(check_timeout, request_timeout, max_rest_bytes, max_grpc_bytes)
        command(bounds=bounds, **others)

    return bounded


def read_as(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str], T]:
    """A callback: a wrong value becomes one sentence that names the option."""

    def read(_: click.Context, option: click.Parameter, text: str) -> T:
        try:
            return parse(text)
        except ConfigError as wrong:
            raise ConfigError(f"{option.opts[0]}: {wrong}") from None

    return read


def labels(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """A callback for KEY=VALUE, several times."""
    return dict(_pair(text, option.opts[0], "key=value") for text in texts)


def variants(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, Triton]:
    """A callback for NAME=HOST:HTTP_PORT:GRPC_PORT, several times."""
    pairs = (_pair(text, option.opts[0], "name=host:http_port:grpc_port") for text in texts)
    return {name: triton(where) for name, where in pairs}


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option}: {text!r} is not of the form {form}")
    return name, value
