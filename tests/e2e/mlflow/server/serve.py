"""In MLflow's environment: writes its router into a file, and serves as `mlflow server` with one worker does, whose
command would import everything twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import APIRouter
from mlflow.server import app as pages
from mlflow.server.fastapi_app import app


def flask_rules() -> Iterator[tuple[str, str]]:
    for rule in pages.url_map.iter_rules():
        yield from ((method, rule.rule) for method in rule.methods or ())


def fastapi_routes(router: APIRouter, before: str = "") -> Iterator[tuple[str, str]]:
    """Included routers are kept whole, each with its prefix."""
    for route in map(vars, router.routes):
        if inner := route.get("original_router"):
            yield from fastapi_routes(inner, before + route["include_context"].prefix)
        else:
            yield from ((method, before + route["path"]) for method in route.get("methods") or ())


if __name__ == "__main__":
    port, router = sys.argv[1:]
    Path(router).write_text(json.dumps(sorted({*flask_rules(), *fastapi_routes(app.router)})))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
