"""`tollgate policy render envoy|istio`: what stands in front of the authorizer, from the same policy."""

from __future__ import annotations

import os
from pathlib import Path

import click
from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.render.bounds import Bounds
from ext_authz.render.envoy import bootstrap
from ext_authz.render.istio.mesh import Mesh, Workload, workload
from ext_authz.render.istio.objects import MESH_CONFIG, objects
from ext_authz.render.options import PORT, labels, policy_argument, read_as, variants, with_bounds
from ext_authz.render.output import as_json, as_yaml
from ext_authz.render.places import LOOPBACK, Address, Pipe, Places, Triton, address, triton
from ext_authz.render.surface import surface

_MESH = Mesh()


@click.group()
def render() -> None:
    """Write the configuration of Envoy, or the objects of Istio, that a policy needs in front of it."""


@render.command(context_settings={"show_default": True})
@policy_argument
@click.option("--listen-host", default=LOOPBACK, help="Address that Envoy listens on.")
@click.option("--port", type=PORT, default=8080, envvar="TOLLGATE_ENVOY_PORT", help="Where callers knock.")
@click.option("--admin-socket", default="", metavar="PATH", help="Of Envoy's admin interface. Default: it has none.")
@click.option("--authorizer", default=f"{LOOPBACK}:9000", callback=read_as(address), metavar="HOST:PORT")
@click.option("--triton", "base", default=f"{LOOPBACK}:8000:8001", callback=read_as(triton), envvar="TOLLGATE_TRITON",
              metavar="HOST:HTTP_PORT:GRPC_PORT")  # fmt: skip
@click.option("--variant", "served", multiple=True, callback=variants, metavar="NAME=HOST:HTTP_PORT:GRPC_PORT",
              help="Where a variant is served, if not with the rest.")  # fmt: skip
@click.option("--access-log", default="/dev/stdout", help="File of Envoy's access log.")
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output.")
@with_bounds
def envoy(
    policy: Path,
    listen_host: str,
    port: int,
    admin_socket: str,
    authorizer: Address,
    base: Triton,
    served: dict[str, Triton],
    access_log: str,
    form: str,
    out: Path | None,
    bounds: Bounds,
) -> None:
    """Write Envoy's whole configuration for one machine, as `tollgate up` uses it."""
    compiled = load_policy(policy, os.environ)
    _ensure_known(served, compiled)
    places = Places(
        listen=Address(listen_host, port),
        admin=Pipe(admin_socket) if admin_socket else None,
        authorizer=authorizer,
        triton=base,
        variants=served,
        access_log=access_log,
    )
    config = bootstrap(compiled, places, bounds)
    text = as_json(config) if form == "json" else as_yaml(config)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)


def _ensure_known(served: dict[str, Triton], policy: Policy) -> None:
    known = surface(policy).variants
    if unknown := [name for name in served if name not in known]:
        raise ConfigError(
            f"--variant: no experiment has a variant {unknown[0]!r} (there are: {', '.join(known) or 'none'})"
        )


@render.command(context_settings={"show_default": True})
@policy_argument
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory of the files.")
@click.option("--gateway-namespace", default=_MESH.gateway_namespace)
@click.option("--gateway-label", "gateway_labels", multiple=True, default=["istio=ingress"], callback=labels,
              metavar="KEY=VALUE", help="Which pods are the gateway.")  # fmt: skip
@click.option("--gateway-account", default=_MESH.gateway_account, help="The gateway's service account.")
@click.option("--target-ref", default="", metavar="NAME", help="A Gateway of the Gateway API, instead of labels.")
@click.option("--bind", default="", metavar="NAMESPACE/NAME", help="Use this gateway, and write none.")
@click.option("--host", "hosts", multiple=True, help="Hosts served. Default: those of the policy, or any.")
@click.option("--tls-secret", default=_MESH.tls_secret, help="The gateway's certificate; empty: plain HTTP.")
@click.option("--authorizer", default="tollgate/tollgate", callback=read_as(workload), metavar="NAMESPACE/SERVICE")
@click.option("--authorizer-label", multiple=True, callback=labels, metavar="KEY=VALUE", help="Default: app=SERVICE.")
@click.option("--authorizer-port", type=PORT, default=_MESH.authorizer_port)
@click.option("--triton", default="models/triton", callback=read_as(workload), metavar="NAMESPACE/SERVICE")
@click.option("--triton-label", multiple=True, callback=labels, metavar="KEY=VALUE", help="Default: app=SERVICE.")
@click.option("--variant-label", default=_MESH.variant_label, help="Label of Triton's pods that names their variant.")
@click.option("--default-variant", default="", help="Who serves what no experiment is about. Default: their first.")
@click.option("--metrics-principal", "metrics_principals", multiple=True, help="Who else may read metrics.")
@click.option("--trust-domain", default=_MESH.trust_domain)
@click.option("--cluster-domain", default=_MESH.cluster_domain)
@with_bounds
def istio(
    policy: Path,
    out: Path,
    authorizer: Workload,
    authorizer_label: dict[str, str],
    triton: Workload,
    triton_label: dict[str, str],
    target_ref: str,
    bind: str,
    bounds: Bounds,
    **others: object,
) -> None:
    """Write the objects that put the authorizer in front of Triton in an Istio mesh, each into a file."""
    if target_ref and not bind:
        raise ConfigError(
            "--target-ref: say with --bind how Istio calls that gateway, so that routes can be bound to it"
        )
    mesh = replace(
        _MESH,
        authorizer=_labelled(authorizer, authorizer_label),
        triton=_labelled(triton, triton_label),
        target_ref=target_ref,
        bind=bind,
        **others,
    )
    written = objects(load_policy(policy, os.environ), mesh, bounds)
    for name, one in written.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_yaml(one))
        click.echo(path)
    click.echo(f"apply them with kubectl; give {MESH_CONFIG} to Istio's own chart", err=True)


def _labelled(found: Workload, labels: dict[str, str]) -> Workload:
    return replace(found, labels=labels) if labels else found
