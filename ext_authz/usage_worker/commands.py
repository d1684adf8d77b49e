"""`tollgate usage-worker`."""

from __future__ import annotations

import click


@click.command()
@click.option("--name", help="Name in the consumer group; default: TOLLGATE_REPLICA, or the host's name.")
@click.option("--metrics-host", help="Address of /metrics and /readyz; default: TOLLGATE_USAGE_METRICS_HOST.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Port of them; default: TOLLGATE_USAGE_METRICS_PORT."
)
def usage_worker(**given: object) -> None:
    """Move the ledger from Redis to Postgres, until SIGTERM.

    With TOLLGATE_ACCESS_LOG_LISTEN, also what Envoy's access log says of allowed calls.
    With TOLLGATE_BUDGETS_EVERY, looks after budgets.
    With TOLLGATE_PREDICTIONS, also the predictions of models that the policy keeps.
    """
    import asyncio

    from ext_authz.observability import log
    from ext_authz.settings import UsageWorkerSettings, load_settings
    from ext_authz.usage_worker.process import serve

    names = {"name": "replica", "metrics_host": "usage_metrics_host", "metrics_port": "usage_metrics_port"}
    settings = load_settings(
        UsageWorkerSettings, {names[name]: value for name, value in given.items() if value is not None}
    )
    log.configure(settings.log_level)
    asyncio.run(serve(settings))
