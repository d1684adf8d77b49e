"""A real MLflow server behind the filter, behind a real Envoy with the authorizer in front; and its own client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml

from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Pipe
from ext_authz.render.envoy import bootstrap
from tests import tokens
from tests.e2e.reload.world import serving
from tests.e2e.render.world import running_envoy
from tests.e2e.training.warm import Warm, warm
from tests.services import free_port, over, wait_for

SERVER = Path(__file__).parent / "server"
PYTHON = SERVER / ".venv" / "bin" / "python"
POLICY = Path(__file__).parents[3] / "docs/cookbook/21-mlflow-by-project/policy.yaml"

STORE = {"AWS_ACCESS_KEY_ID": "mlflow", "AWS_SECRET_ACCESS_KEY": "which-mlflow-alone-has"}
"""Of the bucket."""

PEOPLE: Mapping[str, tuple[str, ...]] = {
    "alice": ("mlflow:forecast:*",),
    "bob": ("mlflow:vision:*", "mlflow:speech:read"),
    "carol": ("mlflow:forecast:read",),
    "dave": ("mlflow:forecast:*", "mlflow:vision:*"),
    "mallory": ("mlflow:attack:*",),
    "archivist": ("mlflow:archive:read",),
    "uma": ("mlflow:forecast:update",),
    "erin": ("infer",),
    "root": ("mlflow:*:*", "pipeline"),
    "audit": ("mlflow:*:read",),
}
"""With their roles."""


class World:
    """Where everything is, and what MLflow's own router has."""

    def __init__(self, directory: Path, store: str, mlflow: str, url: str, client: Warm, http: httpx.Client) -> None:
        self.directory = directory
        self.store = store
        """Of artifacts: an S3 server."""
        self.mlflow = mlflow
        """MLflow itself, past the door: for tests only."""
        self.url = url
        self._client = client
        self._http = http

    @property
    def router(self) -> list[tuple[str, str]]:
        """Methods and paths."""
        return [(method, path) for method, path in json.loads((self.directory / "router.json").read_text())]

    def does(self, who: str, what: str, *arguments: str) -> dict[str, Any]:
        """By MLflow's client."""
        [found] = self.steps(who, (what, *arguments))
        return found

    def steps(self, who: str, *steps: tuple[str, ...]) -> list[dict[str, Any]]:
        """One after another, with one client."""
        return self._run(steps, MLFLOW_TRACKING_URI=f"{self.url}/mlflow", MLFLOW_TRACKING_TOKEN=token(who))

    def operator(self, what: str, *arguments: str) -> None:
        """By MLflow's client, past the door."""
        [found] = self._run([(what, *arguments)], MLFLOW_TRACKING_URI=self.mlflow)
        assert "done" in found, found

    def past(self, path: str, **body: object) -> dict[str, Any]:
        """A call of MLflow, past the door."""
        answer = httpx.post(f"{self.mlflow}/api/2.0/mlflow/{path}", json=body, timeout=30).raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _run(self, steps: Sequence[tuple[str, ...]], **known: str) -> list[dict[str, Any]]:
        ran = self._client.run([json.dumps(steps)], self.directory, **known, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
        assert ran.returncode == 0, ran.stderr
        found: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
        return found

    def call(self, who: str, method: str, path: str, **sent: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        """Through the door; `path` below MLflow's prefix."""
        headers = {"authorization": f"Bearer {token(who)}", **sent.pop("headers", {})}
        return self._http.request(method, f"{self.url}/mlflow{path}", headers=headers, **sent)


@cache
def token(who: str) -> str:
    """Five minutes long."""
    return tokens.mint(
        {"sub": who, "preferred_username": who, "resource_access": {tokens.AUDIENCE: {"roles": [*PEOPLE[who]]}}}
    )


@contextmanager
def running_mlflow(directory: Path, destination: str, **variables: str) -> Iterator[str]:
    """Its address. `destination`: of artifacts."""
    port = free_port()
    environ = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{directory}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": destination,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        **variables,
    }
    command = [str(PYTHON), str(SERVER / "serve.py"), str(port), str(directory / "router.json")]
    with (directory / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=environ, stdout=log, stderr=log)
    url = f"http://{LOOPBACK}:{port}"
    try:
        wait_for(lambda: _answers(process, directory, f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"), 240)
        yield url
    finally:
        process.kill()  # it would take seconds to say goodbye
        process.wait()


@contextmanager
def running_s3(directory: Path) -> Iterator[str]:
    """The address of a server with one bucket, `mlflow`, which is the directory of that name."""
    (directory / "s3" / "mlflow").mkdir(parents=True)
    url, port = f"http://{LOOPBACK}", free_port()
    keys = ["--auth-key", f"{STORE['AWS_ACCESS_KEY_ID']},{STORE['AWS_SECRET_ACCESS_KEY']}"]
    command = [
        str(PYTHON.with_name("rclone")),
        "serve",
        "s3",
        str(directory / "s3"),
        "--addr",
        f"{LOOPBACK}:{port}",
        *keys,
    ]
    with (directory / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: _listens(process, directory, port))
        yield f"{url}:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(process: subprocess.Popen[bytes], directory: Path, port: int) -> bool:
    assert process.poll() is None, (directory / "s3.log").read_text()
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextmanager
def running_filter(directory: Path, mlflow: str, **settings: object) -> Iterator[Path]:
    """Its socket."""
    place = directory / "filter.sock"
    chosen = {"filter_listen": f"unix:{place}", "filter_mlflow_url": mlflow, **settings}
    environ = os.environ | {f"TOLLGATE_{name.upper()}": str(value) for name, value in chosen.items()}
    with (directory / "filter.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "ext_authz", "filter"], env=environ, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or place.is_socket())
        with over(place) as client:
            assert client.get("/healthz").text == "alive\n"
        yield place
    finally:
        process.terminate()
        assert process.wait(20) == 0, (directory / "filter.log").read_text()


def _answers(process: subprocess.Popen[bytes], directory: Path, url: str) -> bool:
    assert process.poll() is None, (directory / "mlflow.log").read_text()
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@contextmanager
def running_world(directory: Path, redis_url: str, database_url: str) -> Iterator[World]:
    endpoints = Endpoints(listen=Address(LOOPBACK, free_port()), access_log=str(directory / "access.log"))
    policy = directory / "policy.yaml"

    def write(jwks: str) -> None:
        text = yaml.safe_load(POLICY.read_text())
        ours = {"audiences": [tokens.AUDIENCE], "roles_client": tokens.AUDIENCE, "jwks_url": jwks}
        text["issuers"] = [{"name": "main", "issuer": tokens.ISSUER, **ours}]
        policy.write_text(yaml.safe_dump(text))

    with ExitStack() as stack:
        store = stack.enter_context(running_s3(directory))
        access = {**STORE, "MLFLOW_S3_ENDPOINT_URL": store, "AWS_DEFAULT_REGION": "us-east-1"}
        mlflow = stack.enter_context(running_mlflow(directory, "s3://mlflow/artifacts", **access))
        client = stack.enter_context(warm(PYTHON, "client", SERVER, MLFLOW_DISABLE_TELEMETRY="true"))
        server = stack.enter_context(serving(directory, redis_url, database_url, "policy.yaml", write))
        place = stack.enter_context(running_filter(directory, mlflow))
        authorizer = Address(LOOPBACK, server.port)
        endpoints = Endpoints(
            endpoints.listen,
            authorizer=authorizer,
            upstreams={"mlflow": Pipe(str(place))},
            access_log=endpoints.access_log,
        )
        stack.enter_context(running_envoy(bootstrap(load_policy(policy, {}), endpoints), endpoints, directory))
        http = stack.enter_context(httpx.Client(timeout=30))
        yield World(directory, store, mlflow, f"http://{LOOPBACK}:{endpoints.listen.port}", client, http)
