"""What is asked of the Tritons that run when a version of a model is new: to load it, and whether it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from devstack.stack.addresses import MAIN
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import StackSettings
from devstack.stack.triton import served
from ext_authz.catalogue.repository import Repository
from ext_authz.clock import SystemClock

_SECONDS = 10.0
"""For what Triton has at hand."""
_READY_SECONDS = 10.0
"""After its load, which answers when it is done."""
_PAUSE = 0.1


class Failed(Exception):
    """A step of a deployment; one sentence."""


def ensure_live(settings: StackSettings, state: StateDirectory) -> None:
    """Before anything is changed. Raises Failed."""
    try:
        with _client(state, state.plain_part(MAIN)) as client:
            if settings.triton or not client.get("/v2/health/live").is_success:
                raise Failed("it is for the Tritons that `tollgate up` starts")
    except (httpx.TransportError, OSError) as failure:
        raise Failed("no Triton that `tollgate up` starts answers: start the stack first") from failure


def _client(state: StateDirectory, home: Path) -> httpx.Client:
    """With the secret that opens its restricted APIs."""
    transport = httpx.HTTPTransport(uds=str(home / "http"))
    headers = {"x-triton-admin": state.secret(MAIN, "admin-secret")}
    return httpx.Client(transport=transport, base_url="http://triton", headers=headers, timeout=_SECONDS)


def load(settings: StackSettings, state: StateDirectory, model: str, version: str) -> str:
    """By each Triton that serves this version, which is then asked what it is.

    Raises:
        Failed: none of them runs, or one cannot.
    """
    found = [home for home in _homes(state) if (home / "served" / model / version).is_dir()]
    if not found:
        raise Failed(f"no Triton serves version {version} of {model}: `tollgate down` and `tollgate up` lay it out")
    for home in found:
        try:
            with _client(state, home) as client:
                _load(client, model, version, settings.model_load_seconds)
        except httpx.TransportError as failure:
            raise Failed(f"{home.name} does not answer: {str(failure) or type(failure).__name__}") from failure
    return f"version {version} is ready and says what it takes, at {', '.join(home.name for home in found)}"


def _homes(state: StateDirectory) -> Iterator[Path]:
    """Directories of the Tritons that run."""
    main = state.plain_part(MAIN)
    yield from sorted(home for home in main.parent.glob(f"{MAIN}*") if (home / "http").is_socket())


def _load(client: httpx.Client, model: str, version: str, seconds: float) -> None:
    """Raises Failed, httpx.TransportError."""
    answer = client.post(f"/v2/repository/models/{model}/load", timeout=seconds)
    if not answer.is_success:
        raise Failed(f"Triton cannot load {model}: {_last_line(answer.text)}")
    place, until = f"/v2/models/{model}/versions/{version}", time.monotonic() + _READY_SECONDS
    while not client.get(f"{place}/ready").is_success:
        if time.monotonic() > until:
            raise Failed(f"Triton loaded {model}, and version {version} is not ready after {_READY_SECONDS:.0f} s")
        time.sleep(_PAUSE)
    if client.get(place).json().get("name") != model:
        raise Failed(f"Triton does not say what version {version} of {model} takes")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a reason"])[-1][-300:]


def listed(state: StateDirectory, model: str, version: str, registered: str) -> str:
    """What the catalogue reads says so, too. Raises Failed."""
    if not (served(state) / model / version).is_dir():
        return f"version {version} is not listed: only an experiment leads to it"
    entries = asyncio.run(Repository(served(state), SystemClock()).entries())
    origins = [origin for entry in entries if entry.id == model for origin in entry.origins]
    if (version, registered) not in [(origin.version, origin.registered) for origin in origins]:
        raise Failed(f"the catalogue does not have version {version} of {model} as {registered} of the registry")
    return f"version {version} is {registered} of the registry"
