"""Why the rest of MLflow is refused: for callers, and for a test that tells what was decided from what a new MLflow
brought."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ELSEWHERE = "it would hand out addresses in the store of artifacts, which is reached through this door only"
_TRACES = "traces are not told apart by project"
_GENAI = "what MLflow has for language models and their evaluation is not told apart by project"
_SERVER = "it is about the server as a whole"
_PAGES = "MLflow's pages are not served: a browser sends no token"

NOT_SERVED: Mapping[str, str] = {
    "/api/2.0/mlflow-artifacts/mpu/": _ELSEWHERE,
    "/api/2.0/mlflow-artifacts/presigned/": _ELSEWHERE,
    "/api/2.0/mlflow/artifacts/presigned-": _ELSEWHERE,
    "/api/2.0/mlflow/traces": _TRACES,
    "/api/3.0/mlflow/traces": _TRACES,
    "/api/2.0/mlflow/get-trace-artifact": _TRACES,
    "/api/3.0/mlflow/get-trace-artifact": _TRACES,
    "/api/2.0/mlflow/get-online-trace-details": _TRACES,
    "/api/2.0/mlflow/unified-traces": _TRACES,
    "/v1/": _TRACES,
    "/api/2.0/mlflow/gateway-proxy": _GENAI,
    "/api/3.0/mlflow/gateway/": _GENAI,
    "/gateway/": _GENAI,
    "/api/2.0/mlflow/runs/create-promptlab-run": _GENAI,
    "/api/3.0/mlflow/assistant/": _GENAI,
    "/api/3.0/mlflow/datasets": _GENAI,
    "/api/3.0/mlflow/genai/": _GENAI,
    "/api/3.0/mlflow/issues": _GENAI,
    "/api/3.0/mlflow/label-schemas/": _GENAI,
    "/api/3.0/mlflow/mcp-": _GENAI,
    "/api/3.0/mlflow/prompt-optimization/": _GENAI,
    "/api/3.0/mlflow/review-queues/": _GENAI,
    "/api/3.0/mlflow/scorer": _GENAI,
    "/api/2.0/mlflow/experiments/search-datasets": "it answers for all experiments",
    "/api/2.0mlflow/experiments/search-datasets": "it answers for all experiments",
    "/api/2.0/mlflow/webhooks": "the server would call addresses of a caller's choice",
    "/api/3.0/jobs": _SERVER,
    "/api/3.0/mlflow/jobs": _SERVER,
    "/api/3.0/mlflow/workspaces": _SERVER,
    "/api/3.0/mlflow/demo/": _SERVER,
    "/api/3.0/mlflow/ui-telemetry": _SERVER,
    "/version": _SERVER,
    "/health": _SERVER,
    "/graphql": "a query can ask for every experiment at once",
    "/static-files/": _PAGES,
    "/build/": _PAGES,
}
"""What is below `/api/` here is the same below `/ajax-api/`."""

_AJAX = re.compile(r"/ajax-api/")


def reason(path: str) -> str:
    """Why a path is refused; empty: nothing is known of it."""
    if path == "/":
        return _PAGES
    same = _AJAX.sub("/api/", path, count=1) if path.startswith("/ajax-api/") else path
    return next((why for beginning, why in NOT_SERVED.items() if same.startswith(beginning)), "")
