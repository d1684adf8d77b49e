"""What people do with MLflow's own client; `warm.py` imports it once, and forks for each caller.

`client STEPS`: a list in JSON of names of functions here, each with its arguments; the last line has their outcomes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError

client = mlflow.MlflowClient


class Echo(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The smallest model."""

    def predict(self, context: object, model_input: list[str], params: object = None) -> list[str]:
        return model_input


def train(experiment: str, model: str) -> object:
    """As a notebook does: an experiment, a run, metrics, artifacts, a model, and a version of it."""
    mlflow.set_experiment(experiment)
    with mlflow.start_run() as run:
        mlflow.log_param("alpha", 0.1)
        mlflow.log_metric("accuracy", 0.9)
        mlflow.log_metrics({"a": 1.0, "b": 2.0}, step=1)
        mlflow.set_tag("team", "first")
        mlflow.log_text("what was found", "notes/read me.txt")
        info = mlflow.pyfunc.log_model(
            name="echo", python_model=Echo(), pip_requirements=[], registered_model_name=model
        )
    client().set_registered_model_alias(model, "champion", 1)
    return {"run": run.info.run_id, "experiment": run.info.experiment_id, "model": info.model_id}


def use(experiment: str, model: str) -> object:
    """As who serves does."""
    runs = mlflow.search_runs(
        experiment_names=[experiment], filter_string="metrics.accuracy > 0.5", output_format="list"
    )
    loaded = mlflow.pyfunc.load_model(f"models:/{model}@champion")
    return {
        "accuracy": [run.data.metrics["accuracy"] for run in runs],
        "history": [metric.value for metric in client().get_metric_history(runs[0].info.run_id, "accuracy")],
        "files": [file.path for file in mlflow.artifacts.list_artifacts(run_id=runs[0].info.run_id)],
        "notes": mlflow.artifacts.load_text(f"runs:/{runs[0].info.run_id}/notes/read me.txt"),
        "predicted": loaded.predict(["good"]),
    }


def see(page: str = "1000") -> object:
    """What searches find."""
    experiments = mlflow.search_experiments(max_results=int(page))
    return {
        "experiments": sorted(each.name for each in experiments),
        "models": sorted(each.name for each in mlflow.search_registered_models()),
        "versions": sorted(f"{each.name} {each.version}" for each in mlflow.search_model_versions()),
    }


def create(experiment: str) -> object:
    return mlflow.create_experiment(experiment)


def adopt(project: str) -> object:
    """docs/mlflow.md, for an operator."""
    for experiment in client().search_experiments():
        if experiment.experiment_id != "0" and "/" not in experiment.name:
            client().rename_experiment(experiment.experiment_id, f"{project}/{experiment.name}")
    for model in client().search_registered_models():
        if "." not in model.name:
            client().rename_registered_model(model.name, f"{project}.{model.name}")
    return None


def log(run: str) -> object:
    return client().log_metric(run, "accuracy", 1.0)


def get(run: str) -> object:
    return client().get_run(run).info.run_id


def read(path: str) -> object:
    with tempfile.TemporaryDirectory() as place:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=path, dst_path=place)).name


def write(run: str) -> object:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "x.txt"
        file.write_text("x")
        return client().log_artifact(run, str(file))


def register(name: str, source: str) -> object:
    return mlflow.register_model(source, name).version


def outcome(what: str, *arguments: str) -> dict[str, object]:
    """A result, or the error that the client raised."""
    done: Callable[..., object] = globals()[what]
    try:
        return {"done": done(*arguments)}
    except MlflowException as refused:
        return {"refused": refused.error_code, "message": refused.message}
    except HTTPError as refused:  # of artifacts
        answer = refused.response.json()
        return {"refused": answer["error_code"], "message": answer["message"]}


def main() -> int:
    print(json.dumps([outcome(*step) for step in json.loads(sys.argv[1])]))
    return 0
