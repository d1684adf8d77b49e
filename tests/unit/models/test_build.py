"""What the build of the repository does with a version that training has written into, or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Module = Callable[[str], ModuleType]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in "12":
        (tmp_path / "repository/m" / version).mkdir(parents=True)
        (tmp_path / "repository/m" / version / "model.py").write_text("")
    (tmp_path / "repository/m/config.pbtxt").write_text('name: "m"\n')
    (tmp_path / "repository/m/2/untrained.txt").write_text("run make\n")
    return tmp_path / "repository"


def _built(module: Module, repository: Path) -> set[str]:
    out = repository.parent / "out"
    module("tollgate_models.build").build_model(repository / "m", out, Path("/environment"), None)
    return {str(path.relative_to(out)) for path in out.rglob("*/*")}


def test_a_version_that_waits_for_training_is_left_out_until_it_is_trained(module: Module, repository: Path) -> None:
    assert _built(module, repository) == {"1/model.py"}
    (repository / "m/2/weights").write_text("1")
    module("tollgate_models.artefact").seal(repository / "m/2", ["weights"])
    assert _built(module, repository) == {"1/model.py", "2/model.py", "2/weights", "2/SHA256SUMS"}


@pytest.mark.parametrize("harm", ["changed", "missing", "outside"])
def test_what_is_not_what_was_exported_is_not_built(module: Module, repository: Path, harm: str) -> None:
    artefact = module("tollgate_models.artefact")
    version = repository / "m/2"
    (version / "weights").write_text("1")
    artefact.seal(version, ["weights"])
    if harm == "changed":
        (version / "weights").write_text("2")
    elif harm == "missing":
        (version / "weights").unlink()
    else:
        (version / artefact.SUMS).write_text(f"{'0' * 64}  ../1/model.py\n")
    said = "is not what SHA256SUMS says" if harm == "changed" else "is missing"
    build = module("tollgate_models.build")
    with pytest.raises(build.CannotBuild, match=f"{said}.*: export the model again"):
        build.build_model(repository / "m", repository.parent / "out", Path("/environment"), None)
