"""What MLflow knows of a model, and how a version leaves its registry for Triton's repository.

`python -m training.registry register NAME`, `promote NAME VERSION`, and `fetch` and `served` for deployments, from the
directory `model_servers`: `tollgate models` runs them. MLflow is in the environment of `training/` alone: nothing that
serves has it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from tollgate_models import artefact
from tollgate_models.environments import CannotBuild

MODELS = Path(__file__).resolve().parents[1]
STORE = MODELS / "training" / ".mlflow"
"""Where MLflow keeps things unless MLFLOW_TRACKING_URI names a server."""
CANDIDATE, SERVED = "candidate", "served"
"""Aliases: what was registered last, and what Triton's repository has."""
MOST_ALIASES = 20
"""Of a version, in `promoted.json`."""
_FILLED = ("untrained.txt", "train.*")
"""In a version that training fills."""
_CODE = (".py", ".R", ".gitignore")
"""Suffixes, or names."""


class NotDone(Exception):
    """One sentence for who called."""


def client() -> MlflowClient:
    STORE.mkdir(exist_ok=True)
    return MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE / 'mlflow.db'}")


def _ensure_pipeline(name: str) -> None:
    there = sorted(gate.parent.name for gate in (MODELS / "training").glob("*/gate.py"))
    if name not in there:
        raise NotDone(f"{name!r} is not trained by a pipeline; these are: {', '.join(there)}")


def register(mlflow: MlflowClient, name: str) -> str:
    """A run with parameters, metrics and the exported model, and a version of the model in the registry: its number."""
    exported = MODELS / "training" / name / "data" / "model"
    if not (exported / artefact.SUMS).is_file():
        made = "dvc repro" if (exported.parents[1] / "dvc.yaml").exists() else "export.py"
        raise NotDone(f"there is no exported model in {exported}: run {made} in {exported.parents[1]}")
    artefact.verify(exported)
    run = mlflow.create_run(_experiment(mlflow, name)).info
    for key, value in _leaves(tomllib.loads((exported / "params.toml").read_text())):
        mlflow.log_param(run.run_id, key, value)
    for key, value in _leaves(json.loads((exported / "metrics.json").read_text())):
        mlflow.log_metric(run.run_id, key, value)
    mlflow.log_artifacts(run.run_id, str(exported), "model")
    mlflow.set_terminated(run.run_id)
    if not mlflow.search_registered_models(f"name = '{name}'"):
        mlflow.create_registered_model(name)
    version = str(mlflow.create_model_version(name, f"{run.artifact_uri}/model", run.run_id).version)
    mlflow.set_registered_model_alias(name, CANDIDATE, version)
    return version


def promote(mlflow: MlflowClient, name: str, version: str, into: Path, key: Path | None) -> str:
    """Put a version (a number or an alias) where Triton's repository is built from: its number.

    Raises:
        NotDone: there is no such version, or it fails its gate.
        CannotBuild: it is not what was registered.
    """
    with tempfile.TemporaryDirectory() as place:
        sealed = Path(place) / into.parent.name / into.name
        found = fetch(mlflow, name, version, sealed, key)
        _install(sealed, into)
    move_served(mlflow, name, str(found.version))
    return str(found.version)


def fetch(
    mlflow: MlflowClient,
    name: str,
    version: str,
    sealed: Path,
    key: Path | None,
    say: Callable[[str, str], None] = lambda _step, _said: None,
) -> ModelVersion:
    """Into `sealed`, whose last two names are the model and its version in Triton: what is signed has these.

    Raises:
        NotDone, CannotBuild: as for `promote`; or it is not signed as TOLLGATE_MODELS_PUBLIC_KEY asks for.
    """
    found = _version(mlflow, name, version)
    with tempfile.TemporaryDirectory() as place:
        exported = Path(download_artifacts(found.source, dst_path=place, tracking_uri=mlflow.tracking_uri))
        say("fetch", f"{name} {found.version} of the registry, run {found.run_id}")
        artefact.verify(exported)
        _ensure_data(exported)
        say("checksums", f"as {artefact.SUMS} of the run says")
        _ensure_good(name, found, exported)
        say("gate", "passed")
        (exported / "promoted.json").write_text(json.dumps(_origin(found), indent=2) + "\n")
        shutil.copytree(exported, sealed)
    artefact.seal(sealed, [path.name for path in sealed.iterdir() if path.name != artefact.SUMS], key)
    public = os.environ.get("TOLLGATE_MODELS_PUBLIC_KEY")
    artefact.verify(sealed, Path(public) if public else None)
    say("signature", "signed" if key else "none")
    return found


def move_served(mlflow: MlflowClient, name: str, version: str) -> None:
    """The alias of what Triton's repository has."""
    mlflow.set_registered_model_alias(name, SERVED, version)


def directory(name: str, version: str | None) -> Path:
    """In Triton's repository; without `version` the highest that training fills.

    Raises:
        NotDone: there is none.
    """
    model = MODELS / "repository" / name
    if version is None:
        filled = [int(file.parent.name) for part in _FILLED for file in model.glob(f"*/{part}")]
        version = str(max(filled, default=0))
    if not version.isdecimal() or not any(file for part in _FILLED for file in (model / version).glob(part)):
        raise NotDone(f"{model} has no version {version} that training fills ({' or '.join(_FILLED)} in its directory)")
    return model / version


def _experiment(mlflow: MlflowClient, name: str) -> str:
    if there := mlflow.get_experiment_by_name(name):
        return there.experiment_id
    # A server decides itself where artefacts are.
    local = None if os.environ.get("MLFLOW_TRACKING_URI") else (STORE / "artefacts").as_uri()
    return mlflow.create_experiment(name, artifact_location=local)


def _leaves(tree: Mapping[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, *path, key)
        else:
            yield ".".join((*path, key)), value


def _version(mlflow: MlflowClient, name: str, version: str) -> ModelVersion:
    try:
        if version.isdecimal():
            return mlflow.get_model_version(name, version)
        return mlflow.get_model_version_by_alias(name, version)
    except MlflowException:
        there = [str(found.version) for found in mlflow.search_model_versions(f"name = '{name}'")]
        known = f"it has {', '.join(sorted(there, key=int))}" if there else "register one: tollgate models register"
        raise NotDone(f"the registry has no version or alias {version!r} of {name!r}; {known}") from None


def _ensure_good(name: str, version: ModelVersion, exported: Path) -> None:
    """By the gate of this checkout, which may have been raised since it was registered."""
    gate = tomllib.loads((MODELS / "training" / name / "params.toml").read_text())["gate"]
    failures = importlib.import_module(f"training.{name}.gate").failures
    if found := failures(json.loads((exported / "metrics.json").read_text()), gate):
        raise NotDone(f"{name} {version.version} of the registry fails its gate: {'; '.join(found)}")


def _ensure_data(exported: Path) -> None:
    """Nothing without a checksum, and no code: that is the checkout's."""
    named = {line.partition("  ")[2] for line in (exported / artefact.SUMS).read_text().splitlines()}
    for path in sorted(exported.iterdir()):
        if path.name not in named | {artefact.SUMS, artefact.SIGNATURE}:
            raise NotDone(f"the run has {path.name}, which {artefact.SUMS} does not name: register the model again")
        if path.suffix in _CODE or path.name in (*_CODE, "untrained.txt"):
            raise NotDone(f"the run has {path.name}, and code is that of the checkout: register the model without it")


def _origin(version: ModelVersion) -> dict[str, Any]:
    """Its aliases are those that it has when it is served."""
    aliases = sorted({*version.aliases, SERVED})[:MOST_ALIASES]
    return {"registered": f"{version.name} {version.version}", "run": version.run_id, "aliases": aliases}


def _install(sealed: Path, into: Path) -> None:
    """Until the last step, the version counts as not trained."""
    for name in (artefact.SUMS, artefact.SIGNATURE):
        (into / name).unlink(missing_ok=True)
    for file in sorted(sealed.iterdir(), key=lambda file: file.name == artefact.SUMS):
        shutil.copy(file, into)


def _say_as_json(step: str, said: str) -> None:
    sys.stdout.write(json.dumps({"step": step, "said": said}) + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tollgate models")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, more in (
        ("register", ()),
        ("promote", ("version",)),
        ("fetch", ("version", "place")),
        ("served", ("version",)),
    ):
        parsed = commands.add_parser(command)
        for argument in ("name", *more):
            parsed.add_argument(argument)
        parsed.add_argument("--to")
    return parser.parse_args()


def _run(given: argparse.Namespace) -> None:
    """Raises NotDone, CannotBuild."""
    _ensure_pipeline(given.name)
    if given.command == "register":
        sys.stdout.write(f"registered {given.name} {register(client(), given.name)}, alias {CANDIDATE}\n")
        return
    if given.command == "served":
        move_served(client(), given.name, given.version)
        return
    into, name = directory(given.name, given.to), os.environ.get("TOLLGATE_MODELS_SIGNING_KEY")
    key = Path(name) if name else None
    if given.command == "fetch":
        found = fetch(
            client(), given.name, given.version, Path(given.place) / into.parent.name / into.name, key, _say_as_json
        )
        sys.stdout.write(json.dumps({"number": str(found.version), "version": into.name}) + "\n")
        return
    number = promote(client(), given.name, given.version, into, key)
    signed = "signed" if key else "not signed: TOLLGATE_MODELS_SIGNING_KEY names no key"
    sys.stdout.write(f"promoted {given.name} {number} to {into}, {signed}\n")


def main() -> None:
    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    given = _arguments()
    try:
        _run(given)
    except (NotDone, CannotBuild, OSError) as failure:
        sys.exit(str(failure))
    except MlflowException as failure:
        sys.exit(f"the registry does not do it: {str(failure).splitlines()[0][:300]}")


if __name__ == "__main__":
    main()
