"""`helm install`, `upgrade`, `rollback` and `test` with their hooks: the migration and the test's pod really run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.k8s.api_server import ApiServer
from tests.k8s.node import Node, running_node
from tests.k8s.plain_root import Image
from tests.k8s.programs import for_any_version
from tests.mesh.world.network import wait_until
from tests.services import running_redis
from tests.tokens import RSA, jwks

_POLICY = """\
version: 1
issuers:
  - {name: main, issuer: "http://127.0.0.1:8090", jwks_url: "http://127.0.0.1:8090/keys", audiences: [triton-gateway]}
models:
  sentiment: {roles: [infer]}
routes:
  - {name: infer, operation: infer}
"""
_OPTIONS = ("--namespace", "hooks", "--timeout", "60s", "--set", "mesh.injectSidecars=false")
_READY = "http://127.0.0.1:9001/readyz"


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """On a socket that pods of any user and network reach."""
    with tempfile.TemporaryDirectory(prefix="tollgate-redis-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        options = ("--unixsocket", f"{name}/socket", "--unixsocketperm", "777")
        with running_redis(directory, *options):
            yield f"unix://{name}/socket"


@pytest.fixture
def node(server: ApiServer, tollgate: Image, tmp_path: Path) -> Iterator[Node]:
    with running_node(server, tollgate, tmp_path, f"tollgate-k8s-{os.getpid()}") as started:
        yield started


@pytest.fixture
def chart(server: ApiServer, node: Node, database: str, redis: str, tmp_path: Path) -> Path:
    server.create_namespace("hooks")
    _set_secrets(server, database=database, redis=redis)
    (tmp_path / "policy.yaml").write_text(_POLICY)
    return for_any_version(tmp_path)


def test_the_test_of_a_release_says_whether_its_authorizer_answers(
    server: ApiServer, node: Node, chart: Path, tmp_path: Path
) -> None:
    policy = ("--set-file", rf"policy.files.policy\.yaml={tmp_path / 'policy.yaml'}")
    server.helm("install", "one", chart, *_OPTIONS, *policy)
    assert "0001" in node.log("one-migration", "migrate")
    node.add_service("one")
    _assert_test_fails(server)
    assert "does not answer at http://one:9001/readyz: <urlopen error [Errno 111]" in node.log("one-test", "ready")
    with _ended(node.start("deployment", "one", "hooks"), within=30):
        wait_until("it answers", lambda: node.run("curl", "-sS", _READY))
        _assert_test_fails(server)
        assert "the authorizer is not ready (http://one:9001/readyz answers 503)" in node.log("one-test", "ready")
        with _ended(_issuer(node, tmp_path)):
            wait_until("it is ready", lambda: node.run("curl", "-fsS", _READY), 90)
            server.helm("test", "one", "--namespace", "hooks", "--timeout", "60s")
    assert "the authorizer is ready" in node.log("one-test", "ready")
    assert "good: policy" in node.log("one-test", "settings")
    server.helm("uninstall", "one", "--namespace", "hooks")


def test_a_migration_that_fails_stops_the_upgrade(server: ApiServer, node: Node, chart: Path, database: str) -> None:
    server.helm("install", "two", chart, *_OPTIONS)
    _set_secrets(server, database=database.replace("/t", "/absent-t", 1))
    with pytest.raises(AssertionError, match="pre-upgrade hooks failed"):
        server.helm("upgrade", "two", chart, *_OPTIONS, "--set", "authorizer.replicas=5")
    assert "absent-t" in node.log("two-migration", "migrate")
    replicas = ("get", "deployment", "two", "-n", "hooks", "-o", "jsonpath={.spec.replicas}")
    assert server.kubectl(*replicas) == "2"
    _set_secrets(server, database=database)
    server.helm("upgrade", "two", chart, *_OPTIONS, "--set", "authorizer.replicas=5")
    assert "the tables are up to date" in node.log("two-migration", "migrate")
    assert server.kubectl(*replicas) == "5"
    server.helm("rollback", "two", "1", "--namespace", "hooks")
    assert server.kubectl(*replicas) == "2"
    server.helm("uninstall", "two", "--namespace", "hooks")


def _assert_test_fails(server: ApiServer) -> None:
    with pytest.raises(AssertionError, match="pod one-test failed"):
        server.helm("test", "one", "--namespace", "hooks", "--timeout", "60s")


def _set_secrets(server: ApiServer, **urls: str) -> None:
    for name, url in urls.items():
        metadata = {"name": f"tollgate-{name}", "namespace": "hooks"}
        server.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"url": url}}])


def _issuer(node: Node, directory: Path) -> subprocess.Popen[bytes]:
    (directory / "keys").write_bytes(jwks(RSA))
    return node.popen(sys.executable, "-m", "http.server", "8090", "--bind", "127.0.0.1", "--directory", directory)


@contextmanager
def _ended(process: subprocess.Popen[bytes], within: float = 10) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(within)
