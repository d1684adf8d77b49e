"""What `tollgate up --observability` adds: a Prometheus with our rules, and a status page."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from devstack.stack.addresses import Addresses
from devstack.stack.child import Child, Part
from devstack.stack.directory import StateDirectory, bare
from devstack.stack.settings import StackSettings
from devstack.stack.triton import triton_metrics
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import LOOPBACK


def monitoring(
    settings: StackSettings, state: StateDirectory, addresses: Addresses, tritons: Sequence[str]
) -> tuple[Part, ...]:
    """In their order; none unless it is asked for. `tritons`: the names of our own."""
    if not settings.observability:
        return ()
    if not (settings.monitoring_files / "rules").is_dir():
        raise ConfigError(
            f"--observability: no folder {settings.monitoring_files}/rules: unset TOLLGATE_MONITORING_FILES, or name a "
            "folder that has `rules` and `dashboards`"
        )
    return _prometheus(settings, state, tritons), _status_page(settings, state, addresses, tritons)


def _prometheus(settings: StackSettings, state: StateDirectory, tritons: Sequence[str]) -> Child:
    program = settings.prometheus or shutil.which("prometheus")
    if not program:
        raise ConfigError(
            "--observability: there is no program prometheus: install it (Debian: apt install prometheus), or name one "
            "in TOLLGATE_PROMETHEUS"
        )
    home, port = state.part("prometheus"), settings.prometheus_port
    file = home / "prometheus.yml"
    return Child(
        name="prometheus",
        command=[
            *(program, f"--config.file={file}", f"--storage.tsdb.path={home / 'data'}", "--log.level=warn"),
            *(f"--web.listen-address={LOOPBACK}:{port}", "--storage.tsdb.retention.time=2d"),
        ],
        environment=bare(state),
        log=state.log("prometheus"),
        probe=f"http://{LOOPBACK}:{port}/-/ready",
        ports=("prometheus_port",),
        prepare=lambda: _write_configuration(file, settings, tritons),
    )


def _write_configuration(file: Path, settings: StackSettings, tritons: Sequence[str]) -> None:
    """JSON is YAML."""
    scraped = {
        "tollgate": (settings.admin_port, "/metrics"),
        "usage-worker": (settings.usage_port, "/metrics"),
        "console": (settings.console_metrics_port, "/metrics"),
        "envoy": (settings.status_port, "/envoy"),
        **{name: (settings.status_port, f"/{name}") for name in tritons},
    }
    configuration = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [f"{settings.monitoring_files}/rules/*.yaml"],
        "scrape_configs": [
            {"job_name": job, "metrics_path": path, "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}]}
            for job, (port, path) in scraped.items()
        ],
    }
    file.write_text(json.dumps(configuration))


def _status_page(settings: StackSettings, state: StateDirectory, addresses: Addresses, tritons: Sequence[str]) -> Child:
    options = {
        "--port": settings.status_port,
        "--prometheus": f"http://{LOOPBACK}:{settings.prometheus_port}",
        "--dashboards": settings.monitoring_files / "dashboards",
        "--envoy": addresses.envoy_admin,
    }
    sockets = [("--triton", f"{name}={triton_metrics(state, name)}") for name in tritons]
    arguments = [f"{part}" for option in (*options.items(), *sockets) for part in option]
    return Child(
        name="status-page",
        command=[sys.executable, "-m", "devstack.monitoring", *arguments],
        environment=bare(state),
        log=state.log("status-page"),
        probe=f"http://{LOOPBACK}:{settings.status_port}/",
        ports=("status_port",),
    )
