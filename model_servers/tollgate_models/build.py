"""Build what Triton serves: `python -m tollgate_models.build REPOSITORY OUT WHEEL`, in the models' own Python.

OUT gets `models/`, each one copied, trained where it has a `train.py`, and bound to this environment (what is up to
date is left alone), `server/`, Triton's Python backend for this Python, and `environment/`, by which Triton finds the
Python that runs the models. Triton puts OUT into a shell command unquoted: it must be free of blanks.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from tollgate_models.backend import CannotBuild, lay_out

_STAMP = ".built-from"


def build(repository: Path, out: Path, environment: Path) -> None:
    """Bring `out` up to date with `repository`; a model that is gone there is removed."""
    sources = {path.name: path for path in repository.iterdir() if (path / "config.pbtxt").is_file()}
    out.mkdir(parents=True, exist_ok=True)
    for built in out.iterdir():
        if built.name not in sources:
            shutil.rmtree(built)
    for name, source in sorted(sources.items()):
        if not _is_fresh(source, out / name, environment):
            _build_model(source, out / name, environment)


def _build_model(source: Path, out: Path, environment: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("__pycache__"))
    parameter = f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{environment}" }} }}\n'
    (out / "config.pbtxt").write_text((source / "config.pbtxt").read_text() + parameter)
    for train in sorted(out.glob("*/train.py")):
        subprocess.run([sys.executable, train, train.parent], check=True)
    # Last: a build that was interrupted is not fresh.
    (out / _STAMP).write_text(_fingerprint(source, environment))


def _is_fresh(source: Path, out: Path, environment: Path) -> bool:
    try:
        return (out / _STAMP).read_text() == _fingerprint(source, environment)
    except OSError:
        return False


def _fingerprint(source: Path, environment: Path) -> str:
    """Of the model's files and of every package here: an artefact is read only by the versions that wrote it."""
    digest = hashlib.sha256(f"{environment} {sys.prefix} {sys.version}".encode())
    for package in sorted(f"{found.name}=={found.version}" for found in distributions()):
        digest.update(package.encode())
    for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(str(path.relative_to(source)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _lay_out_environment(environment: Path) -> None:
    """All that Triton's shell needs of an environment: `bin/activate`, which finds its Python, and `lib`.

    The environment's own script would lead to its own path, whatever characters that has.
    """
    shutil.rmtree(environment, ignore_errors=True)
    (environment / "bin").mkdir(parents=True)
    (environment / "prefix").symlink_to(sys.prefix)
    (environment / "lib").symlink_to("prefix/lib")
    (environment / "bin" / "activate").write_text(f'export PATH="{environment}/prefix/bin:$PATH"\n')


def main(repository: Path, out: Path, wheel: Path) -> None:
    environment = out / "environment"
    try:
        lay_out(wheel, out / "server")
    except CannotBuild as missing:
        sys.exit(str(missing))
    _lay_out_environment(environment)
    build(repository, out / "models", environment)


if __name__ == "__main__":
    # As they are written: OUT may be a link that was made because it has no blanks.
    main(*map(Path, sys.argv[1:4]))
