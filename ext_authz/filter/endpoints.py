"""Every endpoint of MLflow that is served: what a caller needs for it, and which of its fields names the project.

What is not in `ENDPOINTS` is refused; `not_served.py` only has the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct


class Action(StrEnum):
    """What a role gives in a project."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Of(StrEnum):
    """What a field names."""

    EXPERIMENT = "experiment"
    RUN = "run"
    LOGGED_MODEL = "logged model"
    EXPERIMENT_NAME = "name of an experiment"
    MODEL_NAME = "name of a registered model"
    ARTIFACT = "path of an artifact"
    SOURCE = "source of a model version"


class Listing(Struct, frozen=True):
    """A search without ids: it is answered project by project (`listings.py`)."""

    key: str
    """Of the entries in the answer."""
    separator: str
    """Between the project and the rest of a name."""


class Endpoint(Struct, frozen=True):
    """`named`: fields of which at least one has to be there. Fields of `MENTIONS` are looked up besides, wherever they
    are."""

    method: str
    path: str
    """With {placeholders}: of one segment, or {path=**} of all that follow."""
    action: Action | None
    """None: nothing in it belongs to a project."""
    named: Mapping[str, Of] = {}
    listing: Listing | None = None
    has_content: bool = False
    """Its body is an artifact, which is passed on unread; what names things is in path and query."""

    @property
    def reads_query(self) -> bool:
        """Otherwise its body is one JSON object."""
        return self.method == "GET" or self.has_content


MENTIONS: Mapping[str, Of] = {
    **dict.fromkeys(("experiment_id", "experiment_ids"), Of.EXPERIMENT),
    **dict.fromkeys(("run_id", "run_ids", "run_uuid", "run_uuids", "source_run_id"), Of.RUN),
    **dict.fromkeys(("model_id", "model_ids", "source_model_id"), Of.LOGGED_MODEL),
}
"""Fields that name something at any depth of a body, such as `model_id` in each metric of a batch."""

PATHS = frozenset({"path", "artifact_path", "artifact_directory_path", "artifact_file_path"})
"""Fields with the path of a file: of one spelling, and with no way up."""

FIXED = frozenset({"artifact_location"})
"""Fields that would choose where artifacts are kept: the server does."""

EXPERIMENTS, MODELS = "/", "."
"""After the project in names: `forecast/first`, `forecast.iris`. MLflow allows no slash in names of models."""

_EXPERIMENT: Mapping[str, Of] = {"experiment_id": Of.EXPERIMENT}
_RUN: Mapping[str, Of] = {"run_id": Of.RUN, "run_uuid": Of.RUN}
_MODEL: Mapping[str, Of] = {"name": Of.MODEL_NAME}
_LOGGED: Mapping[str, Of] = {"model_id": Of.LOGGED_MODEL}
_FILE: Mapping[str, Of] = {"path": Of.ARTIFACT}

_API = "/api/2.0/mlflow/"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def _of(action: Action | None, named: Mapping[str, Of], *calls: str) -> Iterator[Endpoint]:
    """Of `METHOD path`, the path below `/api/2.0/mlflow/` unless it is a whole one. Pages have the same endpoints below
    `/ajax-api/`."""
    for method, path in map(str.split, calls):
        whole = path if path.startswith("/") else _API + path
        yield Endpoint(method, whole, action, named)
        if whole.startswith("/api/"):
            yield Endpoint(method, whole.replace("/api/", "/ajax-api/", 1), action, named)


def _lists(key: str, separator: str, *calls: str) -> Iterator[Endpoint]:
    for each in _of(Action.READ, {}, *calls):
        yield Endpoint(each.method, each.path, each.action, listing=Listing(key, separator))


def _content(action: Action, named: Mapping[str, Of], *calls: str) -> Iterator[Endpoint]:
    for each in _of(action, named, *calls):
        yield Endpoint(each.method, each.path, each.action, each.named, has_content=True)


_ENTRIES = (
    *_of(None, {}, "GET /api/3.0/mlflow/server-info"),
    # experiments
    *_of(Action.CREATE, {"name": Of.EXPERIMENT_NAME}, "POST experiments/create"),
    *_of(Action.READ, _EXPERIMENT, "GET experiments/get"),
    *_of(Action.READ, {"experiment_name": Of.EXPERIMENT_NAME}, "GET experiments/get-by-name"),
    *_lists("experiments", EXPERIMENTS, "GET experiments/search", "POST experiments/search"),
    *_of(Action.UPDATE, _EXPERIMENT, "POST experiments/set-experiment-tag", "POST experiments/delete-experiment-tag"),
    *_of(Action.UPDATE, {**_EXPERIMENT, "new_name": Of.EXPERIMENT_NAME}, "POST experiments/update"),
    *_of(Action.DELETE, _EXPERIMENT, "POST experiments/delete", "POST experiments/restore"),
    # runs
    *_of(Action.CREATE, _EXPERIMENT, "POST runs/create"),
    *_of(Action.READ, _RUN, "GET runs/get", "GET metrics/get-history", "GET artifacts/list", "GET /get-artifact"),
    *_of(Action.READ, {"run_ids": Of.RUN}, "GET metrics/get-history-bulk-interval"),
    *_of(Action.READ, _RUN, "GET /ajax-api/2.0/mlflow/metrics/get-history-bulk"),
    *_of(Action.READ, {"experiment_ids": Of.EXPERIMENT}, "POST runs/search", "POST logged-models/search"),
    *_of(Action.UPDATE, _RUN, "POST runs/update", "POST runs/set-tag", "POST runs/delete-tag", "POST runs/log-metric"),
    *_of(Action.UPDATE, _RUN, "POST runs/log-parameter", "POST runs/log-batch", "POST runs/log-model"),
    *_of(Action.UPDATE, _RUN, "POST runs/log-inputs", "POST runs/outputs"),
    *_of(Action.DELETE, _RUN, "POST runs/delete", "POST runs/restore"),
    # models that runs logged
    *_of(Action.CREATE, _EXPERIMENT, "POST logged-models"),
    *_of(Action.READ, _LOGGED, "GET logged-models/{model_id}", "GET logged-models/{model_id}/artifacts/directories"),
    *_of(Action.READ, _LOGGED, "GET /ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files"),
    *_of(Action.UPDATE, _LOGGED, "PATCH logged-models/{model_id}", "POST logged-models/{model_id}/params"),
    *_of(Action.UPDATE, _LOGGED, "PATCH logged-models/{model_id}/tags", "DELETE logged-models/{model_id}/tags/{key}"),
    *_of(Action.DELETE, _LOGGED, "DELETE logged-models/{model_id}"),
    # registered models and their versions
    *_of(Action.CREATE, _MODEL, "POST registered-models/create"),
    *_of(Action.READ, _MODEL, "GET registered-models/get", "GET registered-models/alias"),
    *_of(
        Action.READ, _MODEL, "GET registered-models/get-latest-versions", "POST registered-models/get-latest-versions"
    ),
    *_lists("registered_models", MODELS, "GET registered-models/search"),
    *_of(Action.UPDATE, _MODEL, "PATCH registered-models/update", "POST registered-models/alias"),
    *_of(Action.UPDATE, _MODEL, "DELETE registered-models/alias", "POST registered-models/set-tag"),
    *_of(Action.UPDATE, _MODEL, "DELETE registered-models/delete-tag"),
    *_of(Action.UPDATE, {**_MODEL, "new_name": Of.MODEL_NAME}, "POST registered-models/rename"),
    *_of(Action.DELETE, _MODEL, "DELETE registered-models/delete"),
    *_of(Action.CREATE, {**_MODEL, "source": Of.SOURCE}, "POST model-versions/create"),
    *_of(Action.READ, _MODEL, "GET model-versions/get", "GET model-versions/get-download-uri"),
    *_of(Action.READ, _MODEL, "GET /model-versions/get-artifact"),
    *_lists("model_versions", MODELS, "GET model-versions/search"),
    *_of(Action.UPDATE, _MODEL, "PATCH model-versions/update", "POST model-versions/transition-stage"),
    *_of(Action.UPDATE, _MODEL, "POST model-versions/set-tag", "DELETE model-versions/delete-tag"),
    *_of(Action.DELETE, _MODEL, "DELETE model-versions/delete"),
    # artifacts
    *_of(Action.READ, _FILE, f"GET {_ARTIFACTS}", f"GET {_ARTIFACTS}/{{path=**}}"),
    *_content(Action.UPDATE, _FILE, f"PUT {_ARTIFACTS}/{{path=**}}"),
    *_of(Action.DELETE, _FILE, f"DELETE {_ARTIFACTS}/{{path=**}}"),
    *_content(Action.UPDATE, _RUN, "POST /ajax-api/2.0/mlflow/upload-artifact"),
)

ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {(each.method, each.path): each for each in _ENTRIES}
"""By method and path."""

_PLACEHOLDER = re.compile(r"\\\{([a-z_]+)(=\\\*\\\*)?\\\}")


def _pattern(path: str) -> re.Pattern[str]:
    def group(found: re.Match[str]) -> str:
        return f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})"

    return re.compile(_PLACEHOLDER.sub(group, re.escape(path)), re.DOTALL)


_TEMPLATES = [(_pattern(path), endpoint) for (_, path), endpoint in ENDPOINTS.items() if "{" in path]


def endpoint_of(method: str, path: str) -> tuple[Endpoint, Mapping[str, str]] | None:
    """Which one a decoded path is of, with the values of its placeholders; None: none that is served."""
    if found := ENDPOINTS.get((method, path)):
        return (found, {}) if "{" not in path else None
    for pattern, endpoint in _TEMPLATES:
        if endpoint.method == method and (match := pattern.fullmatch(path)):
            return endpoint, match.groupdict()
    return None
