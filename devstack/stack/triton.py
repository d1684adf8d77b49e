"""Triton from a wheel, serving the models of `model_servers/` on the processor.

Measured: one deep or oddly typed request ends its HTTP front end on the usual 8 MB of stack; its repository,
shared-memory and trace APIs give full control; a model whose process died is neither restarted nor shown as dead.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from devstack.stack.addresses import GRPC_PORT, Addresses
from devstack.stack.child import Child, External, Part, package_directory
from devstack.stack.directory import StateDirectory, bare, remove_shared_memory
from devstack.stack.probe import over
from devstack.stack.settings import StackSettings
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import Address

_SETTING = "TOLLGATE_TRITON"
_STACK_BYTES = 256 * 1024 * 1024
_FORWARDED = "(?i)x-(user-id|decision-id|authz-model|authz-version|model-variant)"
"""Headers that models receive; a wider pattern would pass on headers of callers."""
_FRAMEWORK = re.compile(r'key: "framework" value { string_value: "(\w+)" }')
_RESTRICTED = "model-repository,trace,logging,shared-memory"


def triton(settings: StackSettings, state: StateDirectory, addresses: Addresses) -> Part:
    http = addresses.triton.http
    if isinstance(http, Address):
        probe = f"http://{http.host}:{http.port}/v2/health/ready"
        return External(name="triton", probe=probe, setting=_SETTING)
    wheel = package_directory("pytriton", _SETTING) / "tritonserver"
    return Child(
        name="triton",
        command=[wheel / "bin" / "tritonserver", *_options(state)],
        environment=bare(state) | {"TOLLGATE_PREDICTIONS": str(state.part("predictions"))},
        log=state.log("triton"),
        probe=over(http.path, "/v2/health/ready"),
        on_ready=lambda: _close_shared_memory(state),
        prepare=lambda: _prepare(settings.models, state, wheel),
        patience=120,
        stack_bytes=_STACK_BYTES,
        on_stopped=lambda: remove_shared_memory(state),
        remark=_left_out(settings.models),
    )


def triton_metrics(state: StateDirectory) -> Path:
    """A socket."""
    return state.plain_part("triton") / "metrics"


def _options(state: StateDirectory) -> list[str]:
    home = state.plain_part("triton")
    restricted = f"{_RESTRICTED}:x-triton-admin={state.secret('triton', 'admin-secret')}"
    return [
        *("--model-repository", f"{home / 'models'}", "--model-control-mode", "explicit", "--load-model", "*"),
        *("--backend-directory", f"{home / 'server/pytriton/tritonserver/backends'}", "--disable-auto-complete-config"),
        *("--backend-config", f"python,shm-region-prefix-name={state.shared_memory_prefix}"),
        *("--http-address", f"unix:{home}/http", "--metrics-address", f"unix:{triton_metrics(state)}"),
        *("--grpc-address", f"unix:{home}/grpc", "--grpc-port", f"{GRPC_PORT}"),
        *("--http-header-forward-pattern", _FORWARDED, "--grpc-header-forward-pattern", _FORWARDED),
        *("--http-restricted-api", restricted, "--grpc-restricted-protocol", restricted),
        *("--allow-gpu-metrics", "false", "--exit-timeout-secs", "5"),
    ]


def _close_shared_memory(state: StateDirectory) -> None:
    """Triton lets every user read its regions, through which all requests go; it makes them when it starts."""
    for region in state.shared_memory():
        region.chmod(0o600)


def _prepare(models: Path, state: StateDirectory, wheel: Path) -> None:
    for left in state.plain_part("triton").iterdir():
        if left.is_socket():
            left.unlink()  # a killed Triton leaves them, and its HTTP front end then cannot listen
    _build_models(models, state, wheel)


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


def _left_out(models: Path) -> str:
    missing = [
        f"{name} ({framework})"
        for framework, names in _by_framework(models).items()
        if not _python(models, framework).exists()
        for name in names
    ]
    said = [f"without {', '.join(missing)}: `make models FRAMEWORKS=all` makes their environments"] if missing else []
    return "; ".join([*said, *_untrained(models)])


def _untrained(models: Path) -> Iterator[str]:
    """Versions that wait for what training writes; their own file says how to get it."""
    for file in sorted((models / "repository").glob("*/*/untrained.txt")):
        if not (file.parent / "SHA256SUMS").exists():
            yield f"without {file.parents[1].name} {file.parent.name}: {file.read_text().strip()}"


def _build_models(models: Path, state: StateDirectory, wheel: Path) -> None:
    """Each in its framework's own Python, which knows its version and has what training needs."""
    pythons = [python for name in _by_framework(models) if (python := _python(models, name)).exists()]
    if not pythons:
        raise ConfigError(
            f"the models' environments {models / '.venvs'} are missing: run `make setup` in a checkout of Tollgate and "
            f"set TOLLGATE_MODELS to its directory model_servers, or set {_SETTING} to a Triton of your own"
        )
    home = state.plain_part("triton")
    shutil.rmtree(home / "models", ignore_errors=True)  # one may have been built of a framework that is gone
    for python in pythons:
        command: list[str | Path] = [python, "-m", "tollgate_models.build", models / "repository", home, wheel]
        # In a session of its own: Ctrl-C at the terminal is for `up` alone.
        built = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
        if built.returncode:
            raise ConfigError(f"cannot build the models: {built.stderr.strip()}")
