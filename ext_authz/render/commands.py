"""`tollgate policy render envoy|istio`: what stands in front of the authorizer, from the same policy."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TypeVar

import click
from msgspec.structs import replace

from ext_authz.command_line import policy_argument
from ext_authz.errors import ConfigError
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import (
    CONNECTION_BYTES,
    LOOPBACK,
    Address,
    Endpoints,
    Pipe,
    Timeouts,
    Triton,
    address,
    triton,
)
from ext_authz.render.envoy import bootstrap
from ext_authz.render.exposed_paths import exposed_paths
from ext_authz.render.istio.access import MESH_CONFIG
from ext_authz.render.istio.mesh import Mesh, Workload, gateway, workload
from ext_authz.render.istio.objects import objects
from ext_authz.render.text import as_json, as_yaml
from ext_authz.render.tls import TlsOfAll, tls_options

T = TypeVar("T")
Command = Callable[..., None]

_MESH = Mesh()
_DEFAULT = Timeouts()
_PORT = click.IntRange(1, 65535)
_SECONDS = click.FloatRange(0.001, 86_400)
_COUNT = click.IntRange(1, 1_000_000)
_BYTES = click.IntRange(CONNECTION_BYTES, 2**31 - 1)
"""What arrives before the authorizer has answered is not limited: a smaller limit would not hold."""


def _timeout_options(command: Command) -> Command:
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


def _read_as(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str], T]:
    """A callback: a wrong value becomes one sentence that names the option."""

    def read(_: click.Context, option: click.Parameter, text: str) -> T:
        try:
            return parse(text)
        except ConfigError as wrong:
            raise ConfigError(f"{option.opts[0]}: {wrong}") from None

    return read


def _labels(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """A callback for KEY=VALUE, several times."""
    return dict(_pair(text, option.opts[0], "key=value") for text in texts)


def _variants(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, Triton]:
    """A callback for NAME=HOST:HTTP_PORT:GRPC_PORT, several times."""
    pairs = (_pair(text, option.opts[0], "name=host:http_port:grpc_port") for text in texts)
    return {name: triton(where) for name, where in pairs}


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option}: {text!r} is not of the form {form}")
    return name, value


@click.group()
def render() -> None:
    """Write the configuration of Envoy or Istio for a policy."""


@render.command(context_settings={"show_default": True})
@policy_argument
@click.option("--listen-host", default=LOOPBACK, help="Address that Envoy listens on.")
@click.option("--port", type=_PORT, default=8080, envvar="TOLLGATE_ENVOY_PORT", help="Port that Envoy listens on.")
@click.option(
    "--admin-socket", default="", show_default="none", metavar="PATH", help="Unix socket of Envoy's admin interface."
)
@click.option("--authorizer", default=f"{LOOPBACK}:9000", callback=_read_as(address), metavar="HOST:PORT",
              help="Address of `tollgate serve`.")  # fmt: skip
@click.option("--triton", default=f"{LOOPBACK}:8000:8001", callback=_read_as(triton), envvar="TOLLGATE_TRITON",
              metavar="HOST:HTTP_PORT:GRPC_PORT", help="Address of Triton.")  # fmt: skip
@click.option("--variant", "variants", multiple=True, callback=_variants, metavar="NAME=HOST:HTTP_PORT:GRPC_PORT",
              help="Address of a variant, if not that of Triton.")  # fmt: skip
@click.option("--access-log", default="/dev/stdout", help="File of Envoy's access log.")
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="Output format.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of standard output."
)
@tls_options
@_timeout_options
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
    config = bootstrap(compiled, replace(endpoints, **others), timeouts, tls)
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


@render.command(context_settings={"show_default": True})
@policy_argument
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory of the files.")
@click.option("--gateway-namespace", default=_MESH.gateway_namespace, help="The gateway's namespace.")
@click.option("--gateway-label", "gateway_labels", multiple=True, default=["istio=ingress"], callback=_labels,
              metavar="KEY=VALUE", help="Label of the pods of the gateway.")  # fmt: skip
@click.option("--gateway-account", default=_MESH.gateway_account, help="The gateway's service account.")
@click.option("--bind", default="", show_default=False, callback=_read_as(gateway), metavar="NAMESPACE/NAME",
              help="Use this existing Gateway of Istio instead of writing one.")  # fmt: skip
@click.option("--host", "hosts", multiple=True, help="Hosts served. Default: those of the policy, or any.")
@click.option("--tls-secret", default=_MESH.tls_secret, help="The gateway's certificate; empty: plain HTTP.")
@click.option("--authorizer", default="tollgate/tollgate", callback=_read_as(workload), metavar="NAMESPACE/SERVICE",
              help="The authorizer's service.")  # fmt: skip
@click.option("--authorizer-label", multiple=True, callback=_labels, metavar="KEY=VALUE",
              help="Label of its pods. Default: app=SERVICE.")  # fmt: skip
@click.option("--authorizer-port", type=_PORT, default=_MESH.authorizer_port, help="Its port.")
@click.option("--triton", default="models/triton", callback=_read_as(workload), metavar="NAMESPACE/SERVICE",
              help="Triton's service.")  # fmt: skip
@click.option("--triton-label", multiple=True, callback=_labels, metavar="KEY=VALUE",
              help="Label of its pods. Default: app=SERVICE.")  # fmt: skip
@click.option("--variant-label", default=_MESH.variant_label, help="Label of Triton's pods that names their variant.")
@click.option(
    "--default-variant", default="", show_default="the first one", help="Variant for calls outside of experiments."
)
@click.option(
    "--metrics-principal", "metrics_principals", multiple=True, help="Further principal that may read metrics."
)
@click.option("--trust-domain", default=_MESH.trust_domain, help="Trust domain of the mesh.")
@click.option("--cluster-domain", default=_MESH.cluster_domain, help="DNS domain of the cluster.")
@_timeout_options
def istio(
    policy: Path,
    out: Path,
    authorizer: Workload,
    authorizer_label: dict[str, str],
    triton: Workload,
    triton_label: dict[str, str],
    timeouts: Timeouts,
    **others: object,
) -> None:
    """Write the objects for an Istio mesh, each into a file.

    POLICY is a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.
    """
    mesh = replace(
        _MESH, authorizer=_labelled(authorizer, authorizer_label), triton=_labelled(triton, triton_label), **others
    )
    found = objects(load_policy(policy, os.environ), mesh, timeouts)
    written = [out / one.path for one in found]
    for path, one in zip(written, found, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.text())
        click.echo(path)
    for path in sorted(set(out.glob("*.yaml")) - set(written)):
        click.echo(
            f"{path} is not part of this rendering: delete the file, and its object if it is in a cluster", err=True
        )
    click.echo(f"apply them with kubectl; give {MESH_CONFIG} to Istio's own chart", err=True)


def _labelled(found: Workload, labels: dict[str, str]) -> Workload:
    return replace(found, labels=labels) if labels else found
