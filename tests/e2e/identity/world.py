"""Replicas of the authorizer, each behind an Envoy of its own, with one Redis: what one knows of a proof, all know."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from msgspec import Struct

from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from ext_authz.render.envoy import bootstrap
from ext_authz.render.tls import PLAIN, Tls, TlsOfAll
from tests.e2e.reload.world import Serving, serving
from tests.e2e.render.world import Model, running_envoy
from tests.services import free_port
from tests.tokens import b64

INFER = "/v2/models/sentiment/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"


class Replica(Struct, frozen=True):
    """One authorizer and its Envoy."""

    server: Serving
    address: str

    def post(
        self, headers: list[tuple[str, str]], path: str = INFER, client: httpx.Client | None = None
    ) -> httpx.Response:
        """Over TLS with a client of the caller's own."""
        url = f"{'https' if client else 'http'}://{self.address}{path}"
        return (client or httpx).post(url, json={}, headers=headers, timeout=20)


def secured(trusted: Path, cert: Path, key: Path) -> httpx.Client:
    """With a client certificate."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.load_cert_chain(cert, key)
    return httpx.Client(verify=context)


def mark_of(certificate: Path) -> str:
    """`x5t#S256` of a token that is bound to it."""
    return b64(x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()))


@contextmanager
def running_replicas(
    directory: Path,
    redis_url: str,
    database_url: str,
    policy: Callable[[str, str], str],
    tls: tuple[Tls | None, ...] = (None, None),
    upstreams: Mapping[str, Address] = MappingProxyType({}),
    **settings: object,
) -> Iterator[tuple[Model, list[Replica]]]:
    """As many as `tls` has entries: None, or what its Envoy listens with. `policy`: its text, given the address of the
    keys in tests/keys and that of the first Envoy. `upstreams`: where applications of the policy listen."""
    model = Model("stable")
    ports = [free_port() for _ in tls]
    with ExitStack() as stack:
        stack.enter_context(model.running())
        replicas = []
        for number, (port, listens) in enumerate(zip(ports, tls, strict=True)):
            place = directory / str(number)
            place.mkdir()

            def write(jwks: str, file: Path = place / "policy.yaml") -> None:
                file.write_text(policy(jwks, f"http://{LOOPBACK}:{ports[0]}"))

            server = stack.enter_context(serving(place, redis_url, database_url, "policy.yaml", write, **settings))
            endpoints = Endpoints(
                listen=Address(LOOPBACK, port),
                authorizer=Address(LOOPBACK, server.port),
                triton=model.place,
                access_log=str(place / "access.log"),
                upstreams=upstreams,
            )
            compiled = load_policy(place / "policy.yaml", {})
            how = TlsOfAll(listen=listens) if listens else PLAIN
            stack.enter_context(running_envoy(bootstrap(compiled, endpoints, tls=how), endpoints, place))
            replicas.append(Replica(server, f"{LOOPBACK}:{port}"))
        yield model, replicas
