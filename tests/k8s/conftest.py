from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.api_server import ApiServer, running_api_server
from tests.k8s.plain_root import Image, build
from tests.k8s.programs import IMAGES, ROOT, TOOLS
from tests.mesh.world.network import run
from tests.wheels import cache

_NEEDED = ("helm", "istioctl", "etcd", "kube-apiserver")


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    if missing := [name for name in _NEEDED if not (TOOLS / name).exists()]:
        pytest.skip(f"not built: {', '.join(missing)} (make k8s)")


@pytest.fixture(scope="session")
def server(programs: None) -> Iterator[ApiServer]:
    with running_api_server() as started:
        yield started


@pytest.fixture(scope="session")
def tollgate(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _built("tollgate", tmp_path_factory)


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _built("sentiment", tmp_path_factory)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _built("triton", tmp_path_factory)


def _built(name: str, directories: pytest.TempPathFactory) -> Image:
    if os.geteuid():
        pytest.skip("mounts need root")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts are not permitted here")
    return build(IMAGES / f"{name}.Dockerfile", ROOT, directories.mktemp("images") / name, _python(), Path(cache()))


def _python() -> Path:
    """One that brings its library, as the base image's does: the models' own."""
    models = ROOT / "model_servers" / ".venvs" / "sklearn" / "bin" / "python"
    return Path(run(models, "-c", "import sys; print(sys.base_prefix)").strip())


@pytest.fixture
def database(database_url: str) -> str:
    """Empty, and reached by users who are not root: Postgres listens on a socket in its directory."""
    directory = Path(database_url.partition("host=")[2])
    for each in (directory, directory.parent):
        each.chmod(0o711)
    return database_url
