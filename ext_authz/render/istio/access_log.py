"""What became of an allowed call: the gateway's access log to the usage worker."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.render.endpoints import Json
from ext_authz.render.filters import EXT_AUTHZ
from ext_authz.render.headers import LOGGED
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh

_ALLOWED = f"metadata.filter_metadata['{EXT_AUTHZ}']['code'] == 'allowed'"


def access_log_providers(mesh: Mesh) -> Iterator[Json]:
    """For the mesh configuration; none without a usage worker."""
    if mesh.usage_worker:
        service = {"service": mesh.host(mesh.usage_worker), "port": mesh.usage_worker_port}
        logged = {f"additionalResponse{part}ToLog": LOGGED for part in ("Headers", "Trailers")}
        yield {"name": _provider(mesh), "envoyHttpAls": {**service, "logName": NAME, **logged}}


def access_log(mesh: Mesh) -> Iterator[Manifest]:
    """To the usage worker, and to standard output, which Istio would leave out for a gateway with a log of its own."""
    if not mesh.usage_worker:
        return
    why = (
        "The access log: the gateway sends what became of each allowed call to the usage worker, under the decision id "
        "that the authorizer returned as metadata, which no header of a caller can change. Requests of all kinds are "
        "still written to standard output (the provider envoy): without that line this object would end it."
    )
    logs = [
        {"providers": [{"name": "envoy"}]},
        {"providers": [{"name": _provider(mesh)}], "filter": {"expression": _ALLOWED}},
    ]
    spec = {**mesh.gateway_only(selector="selector"), "accessLogging": logs}
    yield manifest(77, "Telemetry", NAME, mesh.gateway_namespace, spec, why=why)


def _provider(mesh: Mesh) -> str:
    """Each authorizer has its own: the mesh configuration may have several."""
    return f"{mesh.authorizer.name}-access-log"
