"""Options of several commands of `tollgate policy render`, and what their values are read as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar

import click

from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import CONNECTION_BYTES, Timeouts

T = TypeVar("T")
Command = Callable[..., None]

PORT = click.IntRange(1, 65535)
_DEFAULT = Timeouts()
_SECONDS = click.FloatRange(0.001, 86_400)
_COUNT = click.IntRange(1, 1_000_000)
_BYTES = click.IntRange(CONNECTION_BYTES, 2**31 - 1)
"""What arrives before the authorizer has answered is not limited: a smaller limit would not hold."""


def timeout_options(command: Command) -> Command:
    """Adds the options of `Timeouts`, and passes them as one argument."""

    @click.option("--check-timeout", type=_SECONDS, default=_DEFAULT.check, help="Seconds for one check.")
    @click.option("--request-timeout", type=_SECONDS, default=_DEFAULT.request, help="Seconds for the request, and for its answer.")  # fmt: skip  # noqa: E501
    @click.option("--max-rest-bytes", type=_BYTES, default=_DEFAULT.rest_bytes, help="Largest body of a REST call.")
    @click.option("--max-grpc-bytes", type=_BYTES, default=_DEFAULT.grpc_bytes, help="Largest gRPC message.")
    @click.option("--max-checks", type=_COUNT, default=_DEFAULT.checks, help="Most checks in flight from one Envoy.")
    @wraps(command)
    def with_timeouts(
        *,
        check_timeout: float,
        request_timeout: float,
        max_rest_bytes: int,
        max_grpc_bytes: int,
        max_checks: int,
        **others: object,
    ) -> None:
        bounds = Timeouts(check_timeout, request_timeout, max_rest_bytes, max_grpc_bytes, max_checks)
        command(timeouts=bounds, **others)

    return with_timeouts


def read_as(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str], T]:
    """A callback: a wrong value becomes one sentence that names the option."""

    def read(_: click.Context, option: click.Parameter, text: str) -> T:
        try:
            return parse(text)
        except ConfigError as wrong:
            raise ConfigError(f"{option.opts[0]}: {wrong}") from None

    return read


def read_each_as(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, Sequence[str]], tuple[T, ...]]:
    """The same, for an option that may be given several times."""
    one = read_as(parse)
    return lambda context, option, texts: tuple(one(context, option, text) for text in texts)


def labels(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """A callback for KEY=VALUE, several times."""
    return dict(pair(text, option.opts[0], "key=value") for text in texts)


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option}: {text!r} is not of the form {form}")
    return name, value
