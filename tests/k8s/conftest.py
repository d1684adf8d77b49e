from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.k8s.api_server import ApiServer, running_api_server
from tests.k8s.programs import TOOLS

_NEEDED = ("helm", "istioctl", "etcd", "kube-apiserver")


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    if missing := [name for name in _NEEDED if not (TOOLS / name).exists()]:
        pytest.skip(f"not built: {', '.join(missing)} (make k8s)")


@pytest.fixture(scope="session")
def server(programs: None) -> Iterator[ApiServer]:
    with running_api_server() as started:
        yield started
