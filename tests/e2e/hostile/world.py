"""The real world as an attacker finds it: Envoy as we render it, `tollgate serve` and its stores."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Timeouts
from tests import tokens
from tests.e2e.hostile.upstream import Upstream
from tests.e2e.reload.world import Serving, serving
from tests.e2e.render.world import running_front
from tests.services import free_port

FRONT, HASTY = "front", "hasty"
"""An Envoy with less patience than is usual, so that a test needs little of it."""

POLICY = """
version: 1
issuers:
  - {{name: kc, issuer: "{issuer}", jwks_url: "{jwks}", audiences: [{audience}], roles_client: {audience}, leeway: 0s}}
models:
  "*": {{roles: [infer]}}
  closed: {{roles: [hr]}}
routes:
  - {{name: infer, operation: infer}}
  - {{name: stream, operation: stream}}
  - {{name: short-stream, operation: stream, headers: [x-short], max_duration: 2s}}
  - {{name: generate, operation: generate}}
  - {{name: metadata, operation: metadata}}
  - {{name: docs, path: "/docs/{{rest=**}}", methods: [GET, POST], public: true, max_duration: 2s}}
  - {{name: files, path: "/files/{{rest=**}}", methods: [GET, POST]}}
  - {{name: hr, path: /files/hr, methods: [GET], roles: [hr]}}
  - {{name: below-hr, path: "/files/hr/{{rest=**}}", methods: [GET], roles: [hr]}}
  - {{name: predict, path: "/v1/models/{{model}}:predict", methods: [POST]}}
  - {{name: below-v1, path: "/v1/{{rest=**}}", methods: [GET, POST], encoding: decoded}}
  - {{name: decoded, path: "/decoded/{{rest=**}}", methods: [GET, POST], encoding: decoded}}
  - {{name: decoded-hr, path: "/decoded/hr@home/{{rest=**}}", methods: [GET], roles: [hr], encoding: decoded}}
  - {{name: decoded-verb, path: "/decoded/{{name}}:wipe", methods: [GET], roles: [hr], encoding: decoded}}
  - {{name: decoded-when, path: "/decoded/when/{{name}}", methods: [GET], encoding: decoded,
     when: "request.path == '/decoded/when/it is é'"}}
  - {{name: opaque, path: "/opaque/{{rest=**}}", methods: [GET], encoding: opaque}}
  - {{name: opaque-hr, path: "/opaque/hr", methods: [GET], roles: [hr]}}
  - {{name: invocations, path: /invocations, methods: [POST]}}
  - {{name: ops, path: "/files/{{rest=**}}", methods: [GET, POST], hosts: [ops.example, "*.ops.example"], roles: [ops]}}
"""


class World:
    """One authorizer and one model, behind a front."""

    def __init__(self, server: Serving, upstream: Upstream, ports: dict[str, int]) -> None:
        self.server = server
        self.upstream = upstream
        self.port = ports[FRONT]
        self.hasty_port = ports[HASTY]

    def say(self, request: bytes) -> bytes:
        """Exactly these bytes over HTTP/1; what is said first in return."""
        with socket.create_connection((LOOPBACK, self.port), timeout=10) as caller:
            caller.sendall(request)
            return caller.recv(65_536)

    def token(self, seconds: int = 300, **claims: object) -> str:
        """alice's, in the role `infer`."""
        return tokens.mint({"exp": int(time.time()) + seconds, **claims})


@contextmanager
def running_world(renderer: str, directory: Path, redis_url: str, database_url: str) -> Iterator[World]:
    upstream = Upstream()
    file = directory / "policy.yaml"

    def write(jwks: str) -> None:
        file.write_text(POLICY.format(issuer=tokens.ISSUER, jwks=jwks, audience=tokens.AUDIENCE))

    with ExitStack() as stack:
        stack.enter_context(upstream.running())
        server = stack.enter_context(serving(directory, redis_url, database_url, prepare=write))
        ports = {name: free_port() for name in (FRONT, HASTY)}
        for name, port in ports.items():
            endpoints = Endpoints(
                listen=Address(LOOPBACK, port),
                authorizer=Address(LOOPBACK, server.port),
                triton=upstream.place,
                access_log=str(directory / f"{name}.log"),
            )
            (directory / name).mkdir()
            kind, timeouts = ("envoy", Timeouts(request=1)) if name == HASTY else (renderer, Timeouts())
            policy = load_policy(file, {})
            stack.enter_context(running_front(kind, policy, endpoints, directory / name, timeouts))
        yield World(server, upstream, ports)
