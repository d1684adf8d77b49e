"""Build the models of one framework, in its own environment.

`python -m tollgate_models.build REPOSITORY [OUT WHEEL [MODEL]]`.
Trains what is not trained yet by these packages. OUT then gets `models/`, each one copied with what training made and
with the way to this environment, and `server/`, Triton's Python backend. Triton puts OUT into a shell command unquoted:
it must be free of blanks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from tollgate_models.artefact import SUMS, verify
from tollgate_models.backend import STUB, ensure_numpy, lay_out
from tollgate_models.environments import CannotBuild, ensure_machine_has

UNTRAINED = "untrained.txt"
"""In a version that waits for what training writes: how to get it."""
PROMOTED = "promoted.json"
"""In a version that a registry had: without it, or without checksums, what is trained here takes its place."""
_SILENT = {"ORT_DISABLE_TELEMETRY": "1"}
"""For every process of a model: ONNX Runtime tells its maker from 1.29 on which models it loads, by default."""
_ENVIRONMENT = "environment"
"""In the directory of each model. A path outside of it would be in what Triton tells callers about the model."""
_FRAMEWORK = re.compile(r'key: "framework" value { string_value: "(\w+)" }')
_FOR_PEOPLE = shutil.ignore_patterns("__pycache__", "train.*", ".gitignore", UNTRAINED)


def models(repository: Path, framework: str) -> Iterator[Path]:
    """The directories of its models, each with a subdirectory per version."""
    for config in sorted(repository.glob("*/config.pbtxt")):
        if framework in _FRAMEWORK.findall(config.read_text()):
            yield config.parent


def build_model(source: Path, out: Path, stub: Path | None) -> None:
    """Put it where Triton finds it, in place of an earlier one, which is whole until then: Triton may be serving it."""
    new, old = (out.parents[1] / each / out.name for each in ("new", "old"))  # signatures are for this name
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
        left.parent.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, new, ignore=_FOR_PEOPLE)
    _fill(source, new)
    _lay_out_environment(new / _ENVIRONMENT, _linked(out.parents[1] / "environments"))
    environment = f"$$TRITON_MODEL_DIRECTORY/{_ENVIRONMENT}"
    parameter = f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{environment}" }} }}\n'
    (new / "config.pbtxt").write_text((source / "config.pbtxt").read_text() + parameter)
    if stub:
        (new / STUB).symlink_to(stub)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _fill(source: Path, new: Path) -> None:
    """With what training made, or a registry had. What is verified is the copy, which is what is served."""
    for waiting in source.glob(f"*/{UNTRAINED}"):
        if (waiting.parent / SUMS).exists():
            verify(new / waiting.parent.name, _public_key())
        else:
            shutil.rmtree(new / waiting.parent.name)
    for script in source.glob("*/train.*"):
        version = new / script.parent.name
        if all((script.parent / name).exists() for name in (SUMS, PROMOTED)):
            verify(version, _public_key())
        else:
            shutil.copytree(trained(script), version, dirs_exist_ok=True)


def _public_key() -> Path | None:
    """Of who may promote models; without it no signature is asked for."""
    key = os.environ.get("TOLLGATE_MODELS_PUBLIC_KEY")
    return Path(key) if key else None


def trained(script: Path) -> Path:
    """What it made: a directory that is kept with this environment, for an artefact is read by what wrote it.

    Raises:
        CannotBuild: it failed, or the model is not as good as it must be; the script says which.
    """
    made = Path(sys.prefix, "trained", _fingerprint(script.parent))
    made.parent.mkdir(exist_ok=True)
    with Path(sys.prefix, "pyvenv.cfg").open() as lock:  # several stacks may start at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            with TemporaryDirectory(dir=made.parent) as new:
                _train(script, Path(new))
                Path(new, "artefacts").rename(made)
    return made


def _train(script: Path, out: Path) -> None:
    began, name = time.monotonic(), f"{script.parents[1].name} {script.parent.name}"
    (out / "artefacts").mkdir()
    interpreter = ["Rscript", "--vanilla"] if script.suffix == ".R" else [sys.executable]
    command = [*interpreter, script, out / "artefacts"]
    variables = {**os.environ, **_SILENT}
    done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"cannot train {name}: {done.stderr.strip()}")
    print(f"  trained {name} in {time.monotonic() - began:.0f} s", flush=True)


def _fingerprint(version: Path) -> str:
    """Of what trains it, and of every package here."""
    digest = hashlib.sha256(sys.version.encode())
    for package in sorted(f"{found.name}=={found.version}" for found in distributions()):
        digest.update(package.encode())
    for path in (*sorted(version.glob("train.*")), Path(__file__).with_name("training.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _linked(environments: Path) -> Path:
    environments.mkdir(exist_ok=True)
    link = environments / Path(sys.prefix).name
    link.unlink(missing_ok=True)
    link.symlink_to(sys.prefix)
    return link


def _lay_out_environment(environment: Path, python: Path) -> None:
    """All that Triton's shell needs of one: `bin/activate`, which finds its Python, and libpython in `lib`. No link to
    a directory: Triton looks at all files below a model when it loads it.

    `python`: a link to this environment. Triton's stub takes no notice of the locale, and reads letters outside ASCII
    so that libraries in C++ (TensorFlow) end the process when they hear of one; so they are in no path that it sees.
    """
    (environment / "bin").mkdir(parents=True)
    path = shlex.quote(f"{python}/bin")
    silent = "".join(f"export {name}={value}\n" for name, value in _SILENT.items())
    (environment / "bin" / "activate").write_bytes(os.fsencode(f'export PATH={path}:"$PATH"\n{silent}'))
    (environment / "lib").mkdir()
    for library in Path(sys.prefix, "lib").glob("libpython*"):
        (environment / "lib" / library.name).symlink_to(library)


def build(repository: Path, framework: str, out: Path, wheel: Path, only: Path | None = None) -> None:
    """Of this framework, all or the model of one name; what others built in `out` stays."""
    if len(str(out).split()) > 1:
        raise CannotBuild(f"Triton cannot take models from '{out}', which has a blank in it: choose another directory")
    stub = lay_out(wheel, out / "server")
    for source in models(repository, framework):
        if only is None or source.name == only.name:
            build_model(source, out / "models" / source.name, stub)


def main(repository: Path, *out_and_wheel: Path) -> None:
    framework = Path(sys.prefix).name
    try:
        ensure_machine_has(framework)
        ensure_numpy()
        if out_and_wheel:
            build(repository, framework, *out_and_wheel)
        else:
            for script in (script for model in models(repository, framework) for script in model.glob("*/train.*")):
                trained(script)
    except (CannotBuild, OSError) as failure:
        sys.exit(f"{framework}: {failure}")


if __name__ == "__main__":
    # As they are written: OUT may be a link that was made because it has no blanks.
    main(*map(Path, sys.argv[1:]))
