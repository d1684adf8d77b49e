"""`tollgate policy render istio|gateway-api`: the objects of a cluster, each in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from ext_authz.command_line import policy_argument
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Timeouts
from ext_authz.render.exposed_paths import exposed_paths
from ext_authz.render.gateway_api.external_auth import left_out
from ext_authz.render.gateway_api.external_auth import objects as external_auth_objects
from ext_authz.render.gateway_api.objects import objects as gateway_api_objects
from ext_authz.render.istio import mesh as forms
from ext_authz.render.istio.access import MESH_CONFIG
from ext_authz.render.istio.manifest import NAME, Manifest
from ext_authz.render.istio.mesh import Mesh, Workload, gateway, gateway_of_gateway_api, workload
from ext_authz.render.istio.objects import objects as istio_objects
from ext_authz.render.options import PORT, Command, labels, pair, read_as, read_each_as, timeout_options
from ext_authz.render.upstreams import without_address

Option = Callable[[Command], Command]
_MESH = Mesh()


def _workload_if_any(text: str) -> Workload | None:
    return workload(text) if text else None


def _upstreams(_: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, tuple[Workload, int]]:
    """A callback for NAME=NAMESPACE/SERVICE:PORT, several times."""
    pairs = (pair(text, option.opts[0], "name=namespace/service:port") for text in texts)
    return {name: forms.application(where) for name, where in pairs}


def _text(name: str, parse: Callable[[str], object], default: str, what: str, **more: Any) -> Option:  # noqa: ANN401 - click's
    return click.option(name, default=default, callback=read_as(parse), help=what, **more)


def _service(name: str, default: str, what: str, parse: Callable[[str], object] = workload) -> Option:
    return _text(name, parse, default, what, metavar="NAMESPACE/SERVICE")


def _labels(name: str) -> Option:
    what = "Label of its pods. Default: app=SERVICE."
    return click.option(name, multiple=True, callback=labels, metavar="KEY=VALUE", help=what)


def _each(name: str, parameter: str, parse: Callable[[str], object], what: str) -> Option:
    return click.option(name, parameter, multiple=True, callback=read_each_as(parse), help=what)


def _account(default: str, parse: Callable[[str], object], **more: Any) -> Option:  # noqa: ANN401 - click's
    return _text("--gateway-account", parse, default, "The gateway's service account.", **more)


_OPTIONS = (
    click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory of the files."
    ),
    _text("--gateway-namespace", forms.namespace, _MESH.gateway_namespace, "The gateway's namespace."),
    _each("--host", "hosts", forms.host, "Hosts served. Default: those of the policy, or any."),
    _text("--tls-secret", forms.no_or_dns_name, _MESH.tls_secret, "The gateway's certificate; empty: plain HTTP."),
    _service("--authorizer", "tollgate/tollgate", "The authorizer's service."),
    _labels("--authorizer-label"),
    click.option("--authorizer-port", type=PORT, default=_MESH.authorizer_port, help="Its port."),
    _service("--triton", "models/triton", "Triton's service."),
    _labels("--triton-label"),
    _text(
        "--authorizer-account",
        forms.dns_name,
        _MESH.authorizer_account,
        "Its service account, which fetches the console's keys.",
    ),
    _service("--console", "tollgate/tollgate-console", "The console's service, for a policy with tokens."),
    click.option(
        "--upstream",
        "upstreams",
        multiple=True,
        callback=_upstreams,
        metavar="NAME=NAMESPACE/SERVICE:PORT",
        help="The service of an application that routes of the policy name.",
    ),
    _service(
        "--usage-worker",
        "tollgate/tollgate-usage-worker",
        "The service of the usage worker, which gets the gateway's access log; empty: none does.",
        _workload_if_any,
    ),
    click.option(
        "--usage-worker-port", type=PORT, default=_MESH.usage_worker_port, help="Its TOLLGATE_ACCESS_LOG_LISTEN."
    ),
    _text("--variant-label", forms.label_key, _MESH.variant_label, "Label of Triton's pods that names their variant."),
    click.option(
        "--default-variant", default="", show_default="the first one", help="Variant for calls outside of experiments."
    ),
    _each("--metrics-principal", "metrics_principals", forms.principal, "Further principal that may read metrics."),
    click.option("--services", is_flag=True, help="Write the two Services, too, which the Helm chart has."),
    click.option(
        "--address-rate",
        type=click.IntRange(0, 1_000_000),
        default=_MESH.address_rate,
        help="Most requests per second from one address, in front of the check; 0: any number.",
    ),
    click.option("--request-authentication", is_flag=True, help="Let Istio verify tokens, too, after the check."),
    _text("--trust-domain", forms.trust_domain, _MESH.trust_domain, "Trust domain of the mesh."),
    _text("--cluster-domain", forms.dns_name, _MESH.cluster_domain, "DNS domain of the cluster."),
)


def _mesh_options(command: Command) -> Command:
    """Adds the options that all meshes need, and passes those of `Mesh` under their names there."""

    @timeout_options
    @wraps(command)
    def with_mesh(
        *,
        authorizer: Workload,
        authorizer_label: dict[str, str],
        triton: Workload,
        triton_label: dict[str, str],
        **others: object,
    ) -> None:
        others |= {"authorizer": _labelled(authorizer, authorizer_label), "triton": _labelled(triton, triton_label)}
        command(**others)

    found: Command = with_mesh
    for option in reversed(_OPTIONS):
        found = option(found)
    return found


def _labelled(found: Workload, chosen: dict[str, str]) -> Workload:
    return replace(found, labels=chosen) if chosen else found


@click.command(context_settings={"show_default": True})
@policy_argument
@click.option("--gateway-label", "gateway_labels", multiple=True, default=["istio=ingress"], callback=labels,
              metavar="KEY=VALUE", help="Label of the pods of the gateway.")  # fmt: skip
@_account(_MESH.gateway_account, forms.dns_name)
@click.option("--bind", default="", show_default=False, callback=read_as(gateway), metavar="NAMESPACE/NAME",
              help="Use this existing Gateway of Istio instead of writing one.")  # fmt: skip
@_mesh_options
def istio(*, policy: Path, out: Path, timeouts: Timeouts, **mesh: Any) -> None:  # noqa: ANN401 - as above
    """Write the objects for an Istio mesh, each into a file.

    POLICY is a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.
    """
    compiled, of_mesh = load_policy(policy, os.environ), replace(_MESH, **mesh)
    _write(istio_objects(compiled, of_mesh, timeouts), compiled, of_mesh, out)


@click.command("gateway-api", context_settings={"show_default": True})
@policy_argument
@_account("", forms.no_or_dns_name, show_default="GATEWAY-istio")
@click.option("--bind", default="", show_default=False, callback=read_as(gateway_of_gateway_api), metavar="NAME",
              help="Use this existing Gateway of the gateway's namespace instead of writing one.")  # fmt: skip
@_text("--gateway-class", forms.dns_name, _MESH.gateway_class, "The class of the Gateway.")
@click.option("--ambient", is_flag=True, help="No sidecars: a waypoint checks calls from inside the mesh.")
@click.option("--external-auth", is_flag=True, help="Routes with the experimental filter ExternalAuth, without Istio.")
@_mesh_options
def gateway_api(
    *,
    policy: Path,
    out: Path,
    timeouts: Timeouts,
    external_auth: bool,
    bind: str,
    gateway_account: str,
    **others: Any,  # noqa: ANN401 - as above
) -> None:
    """Write the objects for an Istio mesh with the Gateway API.

    POLICY is a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.
    """
    compiled, name = load_policy(policy, os.environ), bind or NAME
    account = gateway_account or f"{name}-istio"
    mesh = replace(_MESH, bind=bind, gateway_api=name, gateway_account=account, **others)
    if not external_auth:
        _write(gateway_api_objects(compiled, mesh, timeouts), compiled, mesh, out)
        return
    _write_files(external_auth_objects(compiled, mesh, timeouts), out)
    for what in left_out(compiled):
        click.echo(f"not rendered: {what}", err=True)


def _write(found: Sequence[Manifest], policy: Policy, mesh: Mesh, out: Path) -> None:
    _write_files(found, out)
    for line in without_address(exposed_paths(policy), mesh.upstreams):
        click.echo(line, err=True)
    click.echo(f"apply them with kubectl; give {MESH_CONFIG} to Istio's own chart", err=True)


def _write_files(found: Sequence[Manifest], out: Path) -> None:
    written = [out / one.path for one in found]
    for path, one in zip(written, found, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.text())
        click.echo(path)
    for path in sorted(set(out.glob("*.yaml")) - set(written)):
        click.echo(
            f"{path} is not part of this rendering: delete the file, and its object if it is in a cluster", err=True
        )
