"""`tollgate policy render`: what stands in front of the authorizer, from the same policy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from ext_authz.command_line import policy_argument
from ext_authz.errors import ConfigError
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import (
    LOOPBACK,
    Address,
    Endpoints,
    Pipe,
    Timeouts,
    Triton,
    address,
    address_or_pipe,
    triton,
)
from ext_authz.render.envoy import bootstrap
from ext_authz.render.exposed_paths import exposed_paths
from ext_authz.render.mesh_commands import gateway_api, istio
from ext_authz.render.options import PORT, pair, read_as, timeout_options
from ext_authz.render.text import as_json, as_yaml
from ext_authz.render.tls import TlsOfAll, tls_options
from ext_authz.render.upstreams import without_address


def _variants(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, Triton]:
    """A callback for NAME=HOST:HTTPPORT:GRPCPORT, several times."""
    pairs = (pair(text, option.opts[0], "name=host:http_port:grpc_port") for text in texts)
    return {name: triton(where) for name, where in pairs}


def _upstreams(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, Address | Pipe]:
    """A callback for NAME=HOST:PORT or NAME=unix:/PATH, several times."""
    pairs = (pair(text, option.opts[0], "name=host:port") for text in texts)
    return {name: address_or_pipe(where) for name, where in pairs}


def _if_any(text: str) -> Address | None:
    return address(text) if text else None


@click.group()
def render() -> None:
    """Write the configuration of Envoy or Istio for a policy."""


render.add_command(istio)
render.add_command(gateway_api)


@render.command(context_settings={"show_default": True})
@policy_argument
@click.option("--listen-host", default=LOOPBACK, help="Address that Envoy listens on.")
@click.option("--port", type=PORT, default=8080, envvar="TOLLGATE_ENVOY_PORT", help="Port that Envoy listens on.")
@click.option(
    "--admin-socket", default="", show_default="none", metavar="PATH", help="Unix socket of Envoy's admin interface."
)
@click.option("--authorizer", default=f"{LOOPBACK}:9000", callback=read_as(address), metavar="HOST:PORT",
              help="Address of `tollgate serve`.")  # fmt: skip
@click.option("--triton", default=f"{LOOPBACK}:8000:8001", callback=read_as(triton), envvar="TOLLGATE_TRITON",
              metavar="HOST:HTTPPORT:GRPCPORT", help="Address of Triton.")  # fmt: skip
@click.option("--variant", "variants", multiple=True, callback=_variants, metavar="NAME=HOST:HTTPPORT:GRPCPORT",
              help="Address of a variant, if not that of Triton.")  # fmt: skip
@click.option("--console", default=f"{LOOPBACK}:9010", callback=read_as(address), metavar="HOST:PORT",
              help="Address of `tollgate console`, for a policy with tokens.")  # fmt: skip
@click.option("--console-grpc", default=f"{LOOPBACK}:9011", callback=read_as(address), metavar="HOST:PORT",
              help="Its TOLLGATE_CONSOLE_GRPC_PORT.")  # fmt: skip
@click.option("--upstream", "upstreams", multiple=True, callback=_upstreams, metavar="NAME=HOST:PORT",
              help="Address of an application that routes of the policy name, or unix:/PATH.")  # fmt: skip
@click.option("--usage-worker", default="", show_default="none", callback=read_as(_if_any), metavar="HOST:PORT",
              help="The usage worker's TOLLGATE_ACCESS_LOG_LISTEN, which gets the outcome of each call.")  # fmt: skip
@click.option("--access-log", default="/dev/stdout", help="File of Envoy's access log.")
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="Output format.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of standard output."
)
@tls_options
@timeout_options
def envoy(
    policy: Path,
    listen_host: str,
    port: int,
    admin_socket: str,
    variants: dict[str, Triton],
    form: str,
    out: Path | None,
    timeouts: Timeouts,
    tls: TlsOfAll,
    **others: object,
) -> None:
    """Write the whole configuration of Envoy on one machine.

    POLICY is a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.
    """
    compiled = load_policy(policy, os.environ)
    _ensure_known(variants, compiled)
    admin = Pipe(admin_socket) if admin_socket else None
    endpoints = Endpoints(listen=Address(listen_host, port), admin=admin, variants=variants)
    endpoints = replace(endpoints, **others)
    config = bootstrap(compiled, endpoints, timeouts, tls)
    for line in _warnings(endpoints, compiled):
        click.echo(line, err=True)
    text = as_json(config) if form == "json" else as_yaml(config)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)


def _ensure_known(variants: dict[str, Triton], policy: Policy) -> None:
    known = exposed_paths(policy).variants
    if unknown := [name for name in variants if name not in known]:
        raise ConfigError(
            f"--variant: no experiment has a variant {unknown[0]!r} (there are: {', '.join(known) or 'none'})"
        )


def _warnings(endpoints: Endpoints, policy: Policy) -> Iterator[str]:
    yield from _copied_to_one_triton(endpoints, policy)
    yield from without_address(exposed_paths(policy), endpoints.upstreams)


def _copied_to_one_triton(endpoints: Endpoints, policy: Policy) -> Iterator[str]:
    where = endpoints.variants
    for copies in exposed_paths(policy).copies:
        if where.get(copies.to, endpoints.triton) == where.get(copies.variant, endpoints.triton):
            yield (
                f"warning: calls of {copies.model!r} by the variant {copies.variant!r} are copied to {copies.to!r}, "
                f"and one Triton serves both: add --variant {copies.to}=HOST:HTTPPORT:GRPCPORT"
            )
