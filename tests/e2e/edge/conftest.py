"""One mesh for the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.edge.mesh import Mesh, running_mesh


@pytest.fixture(scope="module")
def started_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
def mesh(started_mesh: Mesh) -> Mesh:
    """Asked nothing yet, and answering with junk until told otherwise."""
    started_mesh.authorizer.asked.clear()
    started_mesh.authorizer.answer = lambda _: b"\xff"
    return started_mesh
