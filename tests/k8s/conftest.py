from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.k8s.api_server import ApiServer, api_server
from tests.k8s.definitions import definitions
from tests.k8s.programs import TOOLS

_NEEDED = ("helm", "istioctl", "etcd", "kube-apiserver")


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    if missing := [name for name in _NEEDED if not (TOOLS / name).exists()]:
        pytest.skip(f"not built: {', '.join(missing)} (make k8s)")


@pytest.fixture(scope="session")
def server(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api-server")) as started:
        for path in definitions():
            started.kubectl("apply", "--server-side", "-f", path)
        started.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        yield started
