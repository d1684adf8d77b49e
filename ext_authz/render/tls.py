"""TLS of Envoy's connections: from callers, to the authorizer, the usage worker and Triton.

All by PEM files, which Envoy reads at start.

A server is verified against the given authority and by its name, that of its address: a certificate of the right
authority for another service is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from msgspec import Struct

from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import Address, Json, Pipe
from ext_authz.render.filters import EXTENSIONS

Command = Callable[..., None]

_HTTP = ["h2", "http/1.1"]
_CONNECTIONS = {
    "listen": "for callers",
    "authorizer": "to the authorizer",
    "triton": "to Triton",
    "usage_worker": "to the usage worker",
}


class Tls(Struct, frozen=True):
    """Paths of PEM files where Envoy runs; "" where there is none."""

    ca: str = ""
    """Who signs the certificates of the other side."""
    cert: str = ""
    key: str = ""


class TlsOfAll(Struct, frozen=True):
    """None: plain text."""

    listen: Tls | None = None
    """Without `ca`, callers need no certificate of their own."""
    authorizer: Tls | None = None
    triton: Tls | None = None
    usage_worker: Tls | None = None
    triton_rest: bool = True
    """Whether REST calls to Triton use its TLS too: Triton's own HTTP server has none."""


PLAIN = TlsOfAll()


def accepted(tls: Tls | None) -> Json:
    """The part of a filter chain that makes callers use TLS 1.2 or newer."""
    if tls is None:
        return {}
    context: Json = {"common_tls_context": _common(tls, _HTTP), "require_client_certificate": bool(tls.ca)}
    if tls.ca:
        context["common_tls_context"]["validation_context"] = {"trusted_ca": {"filename": tls.ca}}
    return {"transport_socket": _socket("DownstreamTlsContext", context)}


def used(tls: Tls | None, where: Address | Pipe, *, http2: bool) -> Json:
    """The part of a cluster by which it is called over TLS."""
    if tls is None or isinstance(where, Pipe):
        return {}
    common = _common(tls, ["h2"] if http2 else ["http/1.1"])
    common["validation_context"] = {
        "trusted_ca": {"filename": tls.ca},
        "match_typed_subject_alt_names": [{"san_type": _kind(where.host), "matcher": {"exact": where.host}}],
    }
    context: Json = {"common_tls_context": common}
    if _kind(where.host) == "DNS":  # an address is no server name: RFC 6066, section 3
        context["sni"] = where.host
    return {"transport_socket": _socket("UpstreamTlsContext", context)}


def _common(tls: Tls, protocols: list[str]) -> Json:
    context: Json = {"alpn_protocols": protocols}
    if tls.cert:
        context["tls_certificates"] = [
            {"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
        ]
    return context


def _kind(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "DNS"
    return "IP_ADDRESS"


def _socket(kind: str, context: Json) -> Json:
    typed = {"@type": f"{EXTENSIONS}.transport_sockets.tls.v3.{kind}", **context}
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


def tls_options(command: Command) -> Command:
    """Adds the options of TLS to a command, and passes them as one argument.

    The command raises ConfigError for files that only make sense together with another one that is missing.
    """

    @wraps(command)
    def with_tls(*, triton_plain_rest: bool, **others: Any) -> None:  # noqa: ANN401 - click's, of any type
        files = {name: str(others.pop(name)) for connection in _CONNECTIONS for name in _names(connection)}
        each = {
            connection: _tls(connection, *(files[name] for name in _names(connection))) for connection in _CONNECTIONS
        }
        if triton_plain_rest and each["triton"] is None:
            raise ConfigError("--triton-plain-rest needs --triton-ca: without it all calls to Triton are plain")
        command(tls=TlsOfAll(**each, triton_rest=not triton_plain_rest), **others)

    found: Command = click.option(
        "--triton-plain-rest", is_flag=True, help="REST calls to Triton without TLS: its own HTTP server has none."
    )(with_tls)
    for connection, whose in reversed(_CONNECTIONS.items()):
        for name, what in zip(reversed(_names(connection)), _HELP, strict=True):
            option, text = f"--{name.replace('_', '-')}", f"TLS {whose}: {what}."
            found = click.option(option, default="", show_default=False, metavar="FILE", help=text)(found)
    return found


_HELP = ("private key (PEM)", "certificate chain (PEM)", "certificates of the authority of the other side (PEM)")


def _names(connection: str) -> tuple[str, str, str]:
    return f"{connection}_ca", f"{connection}_cert", f"{connection}_key"


def _tls(connection: str, ca: str, cert: str, key: str) -> Tls | None:
    option = f"--{connection.replace('_', '-')}"
    if not (ca or cert or key):
        return None
    if bool(cert) != bool(key):
        raise ConfigError(f"{option}-cert and {option}-key belong together: give both")
    if connection == "listen" and not cert:
        raise ConfigError(f"{option}-ca needs {option}-cert and {option}-key: callers are served over TLS by these")
    if connection != "listen" and not ca:
        raise ConfigError(f"{option}-cert needs {option}-ca: without it any server would be trusted")
    return Tls(ca, cert, key)
