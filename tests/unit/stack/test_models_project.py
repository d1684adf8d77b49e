"""The models' project: what every model says of itself, and how one is built for Triton. Nothing is installed here."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from ext_authz.errors import ConfigError

PROJECT = Path(__file__).parents[3] / "model_servers"
CONFIGS = sorted(PROJECT.glob("repository/*/config.pbtxt"))
FRAMEWORK = 'parameters { key: "framework" value { string_value: "onnx" } }\n'


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`tollgate_models.build`, in a Python without the models' packages."""
    monkeypatch.syspath_prepend(PROJECT)
    yield importlib.import_module("tollgate_models.build")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tollgate_models"]:
        del sys.modules[name]


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    state.create()
    return state


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Version 1 of a model whose training takes a while."""
    version = tmp_path / "repository" / "small" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(FRAMEWORK)
    (version.parent / "README.md").write_text("for people")
    (version / "model.py").write_text("")
    (version / "train.py").write_text(
        "import pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'trainings')!r}).open('a').write('x')\n"
        "pathlib.Path(sys.argv[1], 'weights').write_text('7')\n"
    )
    return version


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of a framework: what it has trained is kept in it."""
    prefix = tmp_path / "venvs" / "onnx"
    (prefix / "lib").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text("")
    monkeypatch.setattr(sys, "prefix", str(prefix))
    return prefix


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Triton's, with a stub for this Python and for another."""
    tree = tmp_path / "wheel" / "pytriton" / "tritonserver"
    for version in (f"3.{sys.version_info.minor}", "3.9"):
        (tree / "python_backend_stubs" / version).mkdir(parents=True)
        (tree / "python_backend_stubs" / version / "triton_python_backend_stub").write_text(version)
    (tree / "backends" / "python").mkdir(parents=True)
    (tree / "backends" / "python" / "libtriton_python.so").write_text("")
    return tree


def test_a_model_is_trained_once_and_built_in_place_of_an_earlier_one(
    project: ModuleType, model: Path, environment: Path, wheel: Path, tmp_path: Path
) -> None:
    (left := tmp_path / "out" / "models" / "small" / "1" / "left").mkdir(parents=True)
    for _ in range(2):
        project.build(tmp_path / "repository", "onnx", tmp_path / "out", wheel)
    assert (tmp_path / "trainings").read_text() == "x"
    built = tmp_path / "out" / "models" / "small"
    assert {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file() and not path.is_symlink()} == {
        "config.pbtxt", "README.md", "1/model.py", "1/weights", "environment/bin/activate"
    }  # fmt: skip
    assert not left.exists()
    config = (built / "config.pbtxt").read_text()
    assert config.startswith(FRAMEWORK)
    assert '"EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/environment" }' in config
    assert str(tmp_path) not in config  # callers may read it
    activated = subprocess.run(
        ["sh", "-c", f". {built}/environment/bin/activate; echo $PATH $ORT_DISABLE_TELEMETRY"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert activated.stdout.startswith(f"{tmp_path}/out/environments/onnx/bin:")  # whatever letters the real one has
    assert activated.stdout.endswith(" 1\n")
    assert (tmp_path / "out" / "environments" / "onnx").readlink() == environment
    (model / "train.py").write_text((model / "train.py").read_text() + "# better\n")
    project.build(tmp_path / "repository", "onnx", tmp_path / "out", wheel)
    assert (tmp_path / "trainings").read_text() == "xx"


def test_training_is_silent(project: ModuleType, model: Path, environment: Path) -> None:
    (model / "train.py").write_text("import os, sys; sys.exit(os.environ['ORT_DISABLE_TELEMETRY'] + ' is what it is')")
    with pytest.raises(project.CannotBuild, match="1 is what it is"):
        project.trained(model / "train.py")
    assert environment.exists()


def test_a_model_that_is_not_good_enough_is_not_built(project: ModuleType, model: Path, environment: Path) -> None:
    (model / "train.py").write_text("import sys; sys.exit('accuracy 0.1 is below 0.9')")
    for _ in range(2):
        with pytest.raises(project.CannotBuild, match=r"cannot train small 1: accuracy 0\.1 is below 0\.9"):
            project.trained(model / "train.py")
    assert list((environment / "trained").iterdir()) == []


def test_models_of_another_framework_are_left_to_it(project: ModuleType, model: Path) -> None:
    repository = model.parents[1]
    assert [found.name for found in project.models(repository, "onnx")] == ["small"]
    assert list(project.models(repository, "sklearn")) == []


def test_triton_gets_no_path_with_a_blank(project: ModuleType, model: Path, wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(project.CannotBuild, match=r"'.*/a place', which has a blank in it"):
        project.build(model.parents[1], "onnx", tmp_path / "a place", wheel)


def test_a_model_brings_its_stub_where_the_first_framework_has_another_python(
    project: ModuleType, environment: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = importlib.import_module("tollgate_models.backend")
    assert backend.lay_out(wheel, tmp_path / "server") is None
    monkeypatch.setattr(backend, "PYTHON", "3.9")
    monkeypatch.setattr(backend, "_misses_libpython", lambda _stub: False)
    stub = backend.lay_out(wheel, tmp_path / "server")
    assert stub.read_text() == "3.9"
    taken = tmp_path / "server" / "pytriton" / "tritonserver" / "backends" / "python" / "triton_python_backend_stub"
    assert taken.read_text() == f"3.{sys.version_info.minor}"
    monkeypatch.setattr(backend, "_misses_libpython", lambda _stub: True)
    with pytest.raises(project.CannotBuild, match=r"Triton needs libpython3\.\d+\.so\.1\.0, .* apt install libpython3"):
        backend.lay_out(wheel, tmp_path / "server")
    monkeypatch.setattr(backend, "PYTHON", "3.14")
    with pytest.raises(project.CannotBuild, match=r"no stub for Python 3\.14: make the environment .* with 3\.11"):
        backend.lay_out(wheel, tmp_path / "server")


@pytest.mark.parametrize(
    ("framework", "said"),
    [("onnx", "through bash"), ("r", "apt install r-base-core"), ("torch", "apt install python3-torch")],
)
def test_what_the_machine_lacks_is_one_sentence(
    project: ModuleType, framework: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = importlib.import_module("tollgate_models.environments")
    monkeypatch.setenv("PATH", str(tmp_path))
    if framework != "onnx":
        (tmp_path / "bash").write_text("#!/bin/sh\n")
        (tmp_path / "bash").chmod(0o755)
    monkeypatch.setattr(environments, "_HAS_TORCH", "import no_such_package")
    with pytest.raises(project.CannotBuild, match=said):
        environments.ensure_machine_has(framework)


def test_numpy_2_is_refused(project: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = importlib.import_module("tollgate_models.backend")
    monkeypatch.setattr(backend, "version", lambda _package: "2.4.6")
    with pytest.raises(project.CannotBuild, match=r"needs NumPy below 2, and .* has 2\.4\.6"):
        backend.ensure_numpy()


def test_a_framework_that_is_not_there_is_named(project: ModuleType) -> None:
    environments = importlib.import_module("tollgate_models.environments")
    with pytest.raises(SystemExit, match="no framework caffe: FRAMEWORKS is all, or some of sklearn onnx torch"):
        environments.main("uv", ["sklearn", "caffe"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parent.name)
def test_every_model_batches_says_its_versions_and_has_a_card(config: Path, project: ModuleType) -> None:
    text = config.read_text()
    frameworks = importlib.import_module("tollgate_models.environments").FRAMEWORKS
    assert re.findall(r'key: "framework" value { string_value: "(\w+)" }', text)[0] in frameworks
    assert f'name: "{config.parent.name}"\n' in text
    assert "dynamic_batching { }\n" in text, "a queue policy makes Triton's batcher stall: docs/adr/0055"
    (served,) = re.findall(r"version_policy { specific { versions: (\[.*?\]) } }", text)
    there = [version.parent for version in sorted(config.parent.glob("*/model.py"))]
    assert json.loads(served) == [int(version.name) for version in there if not (version / "untrained.txt").exists()]
    card = (config.parent / "README.md").read_text()
    assert [f"**{name}**" in card for name in ("Data", "Licence", "Quality", "Limits")] == [True] * 4


def test_the_stack_says_what_it_does_not_serve(model: Path, state: StateDirectory, tmp_path: Path) -> None:
    stack = Stack(load_stack_settings({"models": tmp_path}), state)
    assert stack.child("triton").remark.startswith(
        "without small (onnx): `make models FRAMEWORKS=all` makes their environments"
    )
    (python := tmp_path / ".venvs" / "onnx" / "bin" / "python").parent.mkdir(parents=True)
    python.touch()
    (model.parent / "2").mkdir()
    (model.parent / "2" / "untrained.txt").write_text("run make\n")
    stack = Stack(load_stack_settings({"models": tmp_path}), state)
    assert stack.child("triton").remark.startswith("without small 2: run make")
    (model.parent / "2" / "SHA256SUMS").touch()
    stack = Stack(load_stack_settings({"models": tmp_path}), state)
    assert "without" not in stack.child("triton").remark


def test_a_model_without_a_framework_is_an_error(model: Path, state: StateDirectory, tmp_path: Path) -> None:
    (model.parent / "config.pbtxt").write_text('name: "small"\n')
    with pytest.raises(ConfigError, match=r'small/config.pbtxt says no framework: add parameters { key: "framework"'):
        Stack(load_stack_settings({"models": tmp_path}), state)
