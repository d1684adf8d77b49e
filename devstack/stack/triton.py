"""Triton from a wheel, serving the models of `model_servers/` on the processor.

Its repository, shared-memory and trace APIs give full control, so they take a secret. What else Triton needs around it
(stack, watchdog, clean-up) is `tollgate_models/serve.py`, which starts it here and in a container.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from devstack.stack.addresses import GRPC_PORT, MAIN, Addresses
from devstack.stack.child import Child, External, Part, package_directory
from devstack.stack.directory import StateDirectory, bare, remove_shared_memory
from devstack.stack.probe import over
from devstack.stack.settings import StackSettings
from devstack.stack.variants import Instance, lay_out, without
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import Address

_SETTING = "TOLLGATE_TRITON"
_SERVED = "served"
"""In the directory of each instance: links to its models."""
_FORWARDED = "(?i)^x-(user-id|decision-id|authz-model|authz-version|model-variant)$"
"""Headers that models receive. Triton looks for the pattern anywhere in a name: a wider one would pass on headers of
callers."""
_FRAMEWORK = re.compile(r'key: "framework" value { string_value: "(\w+)" }')
_RESTRICTED = "model-repository,trace,logging,shared-memory"
_EXIT_SECONDS = 30
"""Models write their last predictions before they end; Triton would leave them behind when this is over."""


def tritons(
    settings: StackSettings, state: StateDirectory, addresses: Addresses, found: Sequence[Instance]
) -> Iterator[Part]:
    """The one for every model is the first, and builds them."""
    http = addresses.triton.http
    if isinstance(http, Address):
        probe = f"http://{http.host}:{http.port}/v2/health/ready"
        yield External(name="triton", probe=probe, setting=_SETTING)
        return
    wheel = package_directory("pytriton", _SETTING) / "tritonserver"
    for instance in found:
        yield _triton(instance, settings, state, wheel)


def _triton(instance: Instance, settings: StackSettings, state: StateDirectory, wheel: Path) -> Child:
    name, is_main = instance.name, instance.name == MAIN
    program = (sys.executable, "-I", "-S", settings.models.absolute() / "tollgate_models" / "serve.py")
    return Child(
        name=name,
        command=[*program, wheel / "bin" / "tritonserver", *_options(state, instance)],
        environment=bare(state)
        | {
            "TOLLGATE_PREDICTIONS": str(state.part("predictions")),
            "TOLLGATE_MODEL_ANSWER_SECONDS": f"{settings.model_answer_seconds}",
            "TOLLGATE_MODEL_LOAD_SECONDS": f"{settings.model_load_seconds}",
        }
        | ({"TOLLGATE_VARIANT": instance.variant} if instance.variant else {}),
        log=state.log(name),
        probe=over(state.plain_part(name) / "http", "/v2/health/ready"),
        on_ready=lambda: _close_shared_memory(state, name),
        prepare=lambda: _prepare(instance, settings if is_main else None, state, wheel),
        patience=120,
        grace=_EXIT_SECONDS + 10,
        on_stopped=lambda: remove_shared_memory(state, name),
        remark=_left_out(settings.models, instance) if is_main else "",
    )


def served(state: StateDirectory) -> Path:
    """The repository of the one for every model."""
    return state.plain_part(MAIN) / _SERVED


def triton_metrics(state: StateDirectory, name: str) -> Path:
    """A socket."""
    return state.plain_part(name) / "metrics"


def _options(state: StateDirectory, instance: Instance) -> list[str]:
    """All instances have the models and the backend that the first one built."""
    home, built = state.plain_part(instance.name), state.plain_part(MAIN)
    restricted = f"{_RESTRICTED}:x-triton-admin={state.secret(MAIN, 'admin-secret')}"
    backends = built / "server/pytriton/tritonserver/backends"
    return [
        *("--model-repository", f"{home / _SERVED}", "--model-control-mode", "explicit", "--load-model", "*"),
        *("--backend-directory", f"{backends}", "--disable-auto-complete-config"),
        *("--backend-config", f"python,shm-region-prefix-name={state.shared_memory_prefix}{instance.name}_"),
        *("--http-address", f"unix:{home}/http", "--metrics-address", f"unix:{triton_metrics(state, instance.name)}"),
        *("--grpc-address", f"unix:{home}/grpc", "--grpc-port", f"{GRPC_PORT}"),
        *("--http-header-forward-pattern", _FORWARDED, "--grpc-header-forward-pattern", _FORWARDED),
        *("--http-restricted-api", restricted, "--grpc-restricted-protocol", restricted),
        *("--allow-gpu-metrics", "false", "--exit-timeout-secs", f"{_EXIT_SECONDS}"),
    ]


def _close_shared_memory(state: StateDirectory, name: str) -> None:
    """Triton lets every user read its regions, through which all requests go; it makes them when it starts."""
    for region in state.shared_memory(name):
        region.chmod(0o600)


def _prepare(instance: Instance, to_build: StackSettings | None, state: StateDirectory, wheel: Path) -> None:
    home = state.plain_part(instance.name)
    for left in home.iterdir():
        if left.is_socket():
            left.unlink()  # a killed Triton leaves them, and its HTTP front end then cannot listen
    if to_build:
        _build_models(to_build, state, wheel)
    lay_out(state.plain_part(MAIN) / "models", home / _SERVED, instance)


def _by_framework(models: Path) -> dict[str, list[str]]:
    """Names of models by the framework that their `config.pbtxt` says: the environment that they run in."""
    found: dict[str, list[str]] = {}
    for config in sorted((models / "repository").glob("*/config.pbtxt")):
        said = _FRAMEWORK.search(config.read_text())
        if said is None:
            raise ConfigError(
                f'{config} says no framework: add parameters {{ key: "framework" value {{ string_value: "sklearn" }} }}'
            )
        found.setdefault(said[1], []).append(config.parent.name)
    return found


def _python(models: Path, framework: str) -> Path:
    return models / ".venvs" / framework / "bin" / "python"


def installed(models: Path) -> dict[str, str]:
    """The models that can be served on this machine, each with its framework."""
    return {
        name: framework
        for framework, names in _by_framework(models).items()
        if _python(models, framework).exists()
        for name in names
    }


def startable(models: Path, found: Sequence[Instance]) -> tuple[Instance, ...]:
    """Without those whose models are not built on this machine."""
    built = installed(models)
    waiting = {file.parent.relative_to(models / "repository") for file in _untrained(models)}
    return without(
        found,
        [
            each.name
            for each in found
            if any(name not in built or Path(name, version) in waiting for name, version in each.versions.items())
        ],
    )


def _left_out(models: Path, instance: Instance) -> str:
    missing = [
        f"{name} ({framework})"
        for framework, names in _by_framework(models).items()
        if not _python(models, framework).exists()
        for name in names
    ]
    said = [f"without {', '.join(missing)}: `make models FRAMEWORKS=all` makes their environments"] if missing else []
    said += [
        f"without {file.parents[1].name} {file.parent.name}: {file.read_text().strip()}" for file in _untrained(models)
    ]
    said += [f"callers of the variant {variant} get 503" for variant in instance.absent]
    return "; ".join(said)


def _untrained(models: Path) -> Iterator[Path]:
    """Of versions that wait for what training writes: the file that says how to get it."""
    for file in sorted((models / "repository").glob("*/*/untrained.txt")):
        if not (file.parent / "SHA256SUMS").exists():
            yield file


def _build_models(settings: StackSettings, state: StateDirectory, wheel: Path) -> None:
    """Each in its framework's own Python, which knows its version and has what training needs."""
    models = settings.models
    pythons = [python for name in _by_framework(models) if (python := _python(models, name)).exists()]
    if not pythons:
        raise ConfigError(
            f"the models' environments {models / '.venvs'} are missing: run `make setup` in a checkout of Tollgate and "
            f"set TOLLGATE_MODELS to its directory model_servers, or set {_SETTING} to a Triton of your own"
        )
    shutil.rmtree(state.plain_part(MAIN) / "models", ignore_errors=True)  # one may be of a framework that is gone
    for python in pythons:
        _run_build(settings, state, wheel, python)


def _run_build(settings: StackSettings, state: StateDirectory, wheel: Path, python: Path, *only: str) -> None:
    """Raises ConfigError."""
    models, home = settings.models / "repository", state.plain_part(MAIN)
    command: list[str | Path] = [python, "-m", "tollgate_models.build", models, home, wheel, *only]
    # In a session of its own: Ctrl-C at the terminal is for `up` alone.
    built = subprocess.run(
        command, env=_variables(settings), capture_output=True, text=True, check=False, start_new_session=True
    )
    if built.returncode:
        raise ConfigError(f"cannot build the models: {built.stderr.strip()}")


def build_one(settings: StackSettings, state: StateDirectory, model: str) -> None:
    """One model anew, in place of that which a running Triton has. Raises ConfigError."""
    framework = next((name for name, models in _by_framework(settings.models).items() if model in models), "")
    python = _python(settings.models, framework)
    if not python.exists():
        raise ConfigError(f"the environment of {model} is missing: make models FRAMEWORKS={framework}")
    _run_build(settings, state, package_directory("pytriton", _SETTING) / "tritonserver", python, model)


def registry(settings: StackSettings, *arguments: str) -> int:
    """Run `training.registry` in the environment that has MLflow; its exit code.

    Raises:
        ConfigError: there is no such environment.
    """
    return _registry(settings, arguments, captured=False).returncode


def registry_says(settings: StackSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, with what it prints. Raises ConfigError."""
    return _registry(settings, arguments, captured=True)


def _registry(settings: StackSettings, arguments: Sequence[str], *, captured: bool) -> subprocess.CompletedProcess[str]:
    python = settings.models / "training" / ".venv" / "bin" / "python"
    if not python.exists():
        raise ConfigError(
            f"the environment {python.parents[1]} is missing: run `make training` in a checkout of Tollgate and set "
            "TOLLGATE_MODELS to its directory model_servers"
        )
    command: list[str | Path] = [python, "-m", "training.registry", *arguments]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    return subprocess.run(
        command, cwd=settings.models, env=_variables(settings) | quiet, check=False, text=True, capture_output=captured
    )


def _variables(settings: StackSettings) -> dict[str, str]:
    """For who signs models or looks at signatures: an env file may have what the environment has not."""
    keys = {"PUBLIC": settings.models_public_key, "SIGNING": settings.models_signing_key}
    return {**os.environ, **{f"TOLLGATE_MODELS_{name}_KEY": str(path or "") for name, path in keys.items()}}
