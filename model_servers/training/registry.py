"""What MLflow knows of a model, and how a version leaves its registry for Triton's repository.

`python -m training.registry register NAME` and `promote NAME VERSION`, from the directory `model_servers`, which is
what `tollgate models` runs. MLflow is in the environment of `training/` alone: nothing that serves has it.
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
from collections.abc import Iterator, Mapping
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
        raise NotDone(f"there is no exported model in {exported}: run dvc repro in {exported.parents[1]}")
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
    found = _version(mlflow, name, version)
    with tempfile.TemporaryDirectory() as place:
        exported = Path(download_artifacts(found.source, dst_path=place, tracking_uri=mlflow.tracking_uri))
        artefact.verify(exported)
        _ensure_good(name, found, exported)
        (exported / "promoted.json").write_text(json.dumps(_origin(found), indent=2) + "\n")
        _install(exported, into, key)
    mlflow.set_registered_model_alias(name, SERVED, found.version)
    return str(found.version)


def directory(name: str, version: str | None) -> Path:
    """In Triton's repository; without `version` the highest that training fills.

    Raises:
        NotDone: there is none.
    """
    model = MODELS / "repository" / name
    if version is None:
        filled = [int(file.parent.name) for file in model.glob("*/untrained.txt")]
        version = str(max(filled, default=0))
    if not version.isdecimal() or not (model / version / "untrained.txt").is_file():
        raise NotDone(f"{model} has no version {version} that training fills (untrained.txt in its directory)")
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


def _origin(version: ModelVersion) -> dict[str, str]:
    return {"registered": f"{version.name} {version.version}", "run": version.run_id}


def _install(exported: Path, into: Path, key: Path | None) -> None:
    """A wrong key changes nothing; then, until the last step, the version counts as not trained."""
    sealed = exported.with_name("sealed") / into.parent.name / into.name  # what is signed has these two names
    shutil.copytree(exported, sealed)
    artefact.seal(sealed, [path.name for path in exported.iterdir() if path.name != artefact.SUMS], key)
    for name in (artefact.SUMS, artefact.SIGNATURE):
        (into / name).unlink(missing_ok=True)
    for file in sorted(sealed.iterdir(), key=lambda file: file.name == artefact.SUMS):
        shutil.copy(file, into)


def main() -> None:
    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="tollgate models")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("register").add_argument("name")
    promoting = commands.add_parser("promote")
    promoting.add_argument("name")
    promoting.add_argument("version")
    promoting.add_argument("--to")
    given = parser.parse_args()
    try:
        _ensure_pipeline(given.name)
        if given.command == "register":
            sys.stdout.write(f"registered {given.name} {register(client(), given.name)}, alias {CANDIDATE}\n")
            return
        into, key = directory(given.name, given.to), os.environ.get("TOLLGATE_MODELS_SIGNING_KEY")
        number = promote(client(), given.name, given.version, into, Path(key) if key else None)
        signed = "signed" if key else "not signed: TOLLGATE_MODELS_SIGNING_KEY names no key"
        sys.stdout.write(f"promoted {given.name} {number} to {into}, {signed}\n")
    except (NotDone, CannotBuild) as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
