"""The programs of both images, started as the chart's pods start them, on free ports of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx

from tests.k8s.plain_root import Image, start
from tests.k8s.programs import Object, pods, template
from tests.mesh.world.network import run, wait_until
from tests.services import free_port


@dataclass(frozen=True)
class Triton:
    http: int
    metrics: int


@dataclass(frozen=True)
class Authorizer:
    grpc: int
    admin: int


@contextmanager
def running_authorizer(image: Image, database: str, redis: str, directory: Path) -> Iterator[Authorizer]:
    """With the chart's own policy, whose issuer nobody reaches."""
    container, ports = _container("tollgate"), Authorizer(free_port(), free_port())
    _mount(image, "tollgate-policy", "etc/tollgate/policy")
    environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    environment |= {
        "TOLLGATE_DATABASE_URL": database,
        "TOLLGATE_REDIS_URL": redis,
        "TOLLGATE_LISTEN_PORT": str(ports.grpc),
        "TOLLGATE_ADMIN_PORT": str(ports.admin),
    }
    assert start(image, [*image.entrypoint, "migrate"], directory / "migrate.log", **environment).wait(60) == 0
    log = directory / "serve.log"
    with _running(start(image, image.entrypoint + image.command, log, **environment), log):
        url = f"http://127.0.0.1:{ports.admin}/readyz"
        wait_until("only the issuer of the example is away", lambda: _away(run("curl", "-sS", url)) == ["jwks:main"])
        yield ports


@contextmanager
def running_triton(image: Image, log: Path, *options: str | Path) -> Iterator[Triton]:
    """`options` of the chart."""
    container, ports = _container("tollgate-triton-stable", *options), Triton(free_port(), free_port())
    _mount(image, "tollgate-triton-watchdog", "watchdog/tollgate_models")
    given = [f"--http-port={ports.http}", f"--metrics-port={ports.metrics}", f"--grpc-port={free_port()}"]
    with _running(start(image, [*container["command"], *container["args"], *given], log), log):
        url = f"http://127.0.0.1:{ports.http}/v2/health/ready"
        wait_until("it is ready", lambda: run("curl", "-fsSi", url), 120)
        yield ports


def check(authorizer: Authorizer) -> bytes:
    """The answer to a request of which nothing is known."""
    with grpc.insecure_channel(f"127.0.0.1:{authorizer.grpc}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check"
        )
        return call(b"", timeout=10)


def infer(triton: Triton) -> httpx.Response:
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a wonderful day"]}
    url = f"http://127.0.0.1:{triton.http}/v2/models/sentiment/infer"
    headers = {"x-authz-model": "sentiment", "x-authz-version": "1"}
    return httpx.post(url, json={"inputs": [text]}, headers=headers)


def _container(name: str, *options: str | Path) -> Object:
    [pod] = (pod for pod in pods(template(*options)) if pod["metadata"]["name"] == name)
    [container] = pod["spec"]["containers"]
    found: Object = container
    return found


def _away(readyz: str) -> list[str]:
    return [name for name, works in json.loads(readyz).get("dependencies", {"": False}).items() if not works]


@contextmanager
def _running(process: subprocess.Popen[bytes], log: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.terminate()
        process.wait(30)


def _mount(image: Image, config_map: str, at: str) -> None:
    [found] = (item for item in template() if (item["kind"], item["metadata"]["name"]) == ("ConfigMap", config_map))
    directory = image.root / at
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in found["data"].items():
        (directory / name).write_text(text)
