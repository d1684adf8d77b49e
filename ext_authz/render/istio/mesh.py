"""The names of everything in the cluster, which the policy does not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import Json
from ext_authz.render.istio.manifest import GATEWAY_API, NAME

WAYPOINT = f"{NAME}-waypoint"
"""The Gateway and, as istiod names it, its account."""

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS = rf"{_LABEL}(?:\.{_LABEL})*"
_SERVICE = re.compile(f"({_LABEL})/({_LABEL})", re.ASCII)


class Workload(Struct, frozen=True):
    """One Service and the pods behind it, whose ports have the same numbers."""

    namespace: str
    name: str
    labels: Mapping[str, str]


class Mesh(Struct, frozen=True):
    """The defaults are names that the Helm charts of Istio and of this repository give."""

    gateway_namespace: str = "istio-ingress"
    gateway_labels: Mapping[str, str] = field(default_factory=lambda: {"istio": "ingress"})
    gateway_account: str = "istio-ingress"
    """Its service account: the only one that may call Triton and the authorizer."""
    bind: str = ""
    """An existing Gateway of Istio, as namespace/name; empty renders one."""
    gateway_api: str = ""
    """The Gateway of the Gateway API whose pods do the check; empty: those with `gateway_labels`."""
    ambient: bool = False
    """Whether a waypoint in the namespace of Triton checks calls from inside the mesh, too."""
    gateway_class: str = "istio"
    """Of the rendered Gateway of the Gateway API."""
    hosts: tuple[str, ...] = ()
    """Empty: those of the policy's routes."""
    tls_secret: str = "tollgate-tls"  # noqa: S105 - the name of one
    """Of the gateway's certificate; empty: plain HTTP, for a load balancer that ends TLS."""
    authorizer: Workload = Workload(NAME, NAME, {"app": NAME})
    authorizer_port: int = 9000
    triton: Workload = Workload("models", "triton", {"app": "triton"})
    triton_ports: tuple[int, int] = (8000, 8001)
    """REST and gRPC."""
    usage_worker: Workload | None = Workload(NAME, f"{NAME}-usage-worker", {"app": f"{NAME}-usage-worker"})
    """It gets the gateway's access log; None: nobody does."""
    usage_worker_port: int = 9003
    console: Workload = Workload(NAME, f"{NAME}-console", {"app": f"{NAME}-console"})
    """Only where the policy has tokens."""
    console_ports: tuple[int, int] = (9010, 9011)
    """HTTP and gRPC."""
    upstreams: Mapping[str, tuple[Workload, int]] = {}
    """Applications of the policy, with the port of each; paths of one that is not here get 404."""
    authorizer_account: str = NAME
    """The authorizer's service account, which fetches the console's keys."""
    metrics_principals: tuple[str, ...] = ()
    """Who else may read metrics, such as `cluster.local/ns/monitoring/sa/prometheus`."""
    variant_label: str = "variant"
    """Of Triton's pods: which variant they serve."""
    default_variant: str = ""
    """Who serves calls that no experiment covers; empty: the first variant of the experiments."""
    services: bool = False
    """Whether to render the Services of the authorizer and Triton, which the Helm chart has, too."""
    address_rate: int = 2000
    """Requests per second from one address, in front of the check; 0: any number."""
    request_authentication: bool = False
    """Whether Istio verifies tokens, too, behind the check."""
    trust_domain: str = "cluster.local"
    cluster_domain: str = "cluster.local"

    @property
    def checking_principals(self) -> tuple[str, ...]:
        """Who does the check, and so may call Triton and the authorizer."""
        accounts = [(self.gateway_namespace, self.gateway_account)]
        accounts += [(self.triton.namespace, WAYPOINT)] if self.ambient else []
        return tuple(self._principal(namespace, account) for namespace, account in accounts)

    @property
    def authorizer_principal(self) -> str:
        return self._principal(self.authorizer.namespace, self.authorizer_account)

    def _principal(self, namespace: str, account: str) -> str:
        return f"{self.trust_domain}/ns/{namespace}/sa/{account}"

    @property
    def redirects(self) -> bool:
        """Whether plain HTTP is answered with the address over HTTPS: of an existing Gateway we do not know it."""
        return bool(self.tls_secret) and not self.bind and not self.gateway_api

    def host(self, workload: Workload) -> str:
        return f"{workload.name}.{workload.namespace}.svc.{self.cluster_domain}"

    def gateway_only(self, *, selector: str) -> Json:
        """What limits an object to the gateway; `selector` is the name that its kind has for a choice by labels."""
        if self.gateway_api:
            return {"targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": self.gateway_api}]}
        labels = dict(self.gateway_labels)
        return {selector: {"labels": labels} if selector == "workloadSelector" else {"matchLabels": labels}}


def form(pattern: str, what: str) -> Callable[[str], str]:
    """Reads texts of one form only. Raises ConfigError for others."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ConfigError(f"{text!r} is not {what}")
        return text

    return read


namespace = form(_LABEL, "the name of a namespace: lower-case letters, digits and hyphens")
dns_name = form(_DNS, "a name of lower-case letters, digits, hyphens and dots")
no_or_dns_name = form(f"(?:{_DNS})?", "a name of lower-case letters, digits, hyphens and dots, nor empty")
host = form(rf"\*|(?:\*\.)?{_DNS}", "a host, such as models.example, *.models.example or *: no scheme, port or path")
_TRUST_DOMAIN = "[a-z0-9._-]{1,255}"
trust_domain = form(_TRUST_DOMAIN, "a trust domain: lower-case letters, digits, dots, hyphens and underscores")
principal = form(rf"{_TRUST_DOMAIN}/ns/{_LABEL}/sa/{_DNS}", "of the form TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
"""Never a pattern: in Istio's policies `*` stands for everybody."""
_KEY = rf"(?:{_DNS}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
label_key = form(_KEY, "the key of a label")


def workload(text: str) -> Workload:
    """The one behind `namespace/name`, with the label `app: name`. Raises ConfigError for another form."""
    found = _SERVICE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is not of the form namespace/name")
    return Workload(found[1], found[2], {"app": found[2]})


def application(text: str) -> tuple[Workload, int]:
    """Raises ConfigError unless it is `namespace/name:port`."""
    where, _, port = text.rpartition(":")
    if not _SERVICE.fullmatch(where) or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise ConfigError(f"{text!r} is not of the form namespace/name:port")
    return workload(where), int(port)


def gateway(text: str) -> str:
    """The name of an existing Gateway. Raises ConfigError for what Istio refuses as one."""
    if text and not _SERVICE.fullmatch(text):
        raise ConfigError(
            f"{text!r} is not of the form namespace/name, of a Gateway of Istio: "
            "for one of the Gateway API use tollgate policy render gateway-api"
        )
    return text


def gateway_of_gateway_api(text: str) -> str:
    """The name of an existing one. Raises ConfigError for another form."""
    if text and not _SERVICE.fullmatch(f"any/{text}"):
        raise ConfigError(f"{text!r} is not the name of a Gateway: write its namespace as --gateway-namespace")
    return text
