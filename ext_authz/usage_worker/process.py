"""The parts of a usage worker: the ledger and, where they are set up, access logs and predictions."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from ext_authz.billing.delivery import Delivery
from ext_authz.billing.watch import BudgetAlerts, BudgetWatch
from ext_authz.clock import SystemClock
from ext_authz.db.redis import connected
from ext_authz.errors import ConfigError
from ext_authz.ledger.access_log import AccessLog
from ext_authz.ledger.metrics import USAGE_WORKER
from ext_authz.ledger.months import Months
from ext_authz.ledger.reconcile import Reconciler
from ext_authz.ledger.rollups import Rollups
from ext_authz.ledger.worker import UsageWorker, Work
from ext_authz.observability.listeners import serve_metrics
from ext_authz.policy.load import load_policy
from ext_authz.predictions.ingest import Ingest
from ext_authz.quotas.ending import EndingBoosts
from ext_authz.quotas.store import QuotaStore
from ext_authz.settings import UsageWorkerSettings
from ext_authz.tls import ensure_tls_usable

log = logging.getLogger(__name__)

_REDIS_TIMEOUT = 5.0
"""Seconds; longer than a read waits for new events."""


async def serve(settings: UsageWorkerSettings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _worker(settings) as worker:
        if settings.usage_metrics_port:
            _serve_metrics(settings, settings.usage_metrics_port, worker)
        await worker.run(stop)


@asynccontextmanager
async def _worker(settings: UsageWorkerSettings) -> AsyncGenerator[UsageWorker]:
    works = await _works(settings)
    url, shards = settings.redis_url.get_secret_value(), settings.redis_shards
    async with connected(url, shards=shards, seconds=_REDIS_TIMEOUT) as clients:
        works["boosts"] = EndingBoosts(settings.database_url, clients).run
        if settings.budgets_every:
            works |= _of_budgets(settings, settings.budgets_every, QuotaStore(clients))
        yield UsageWorker(
            settings.database_url,
            clients,
            SystemClock(),
            name=settings.replica,
            batch=settings.usage_batch,
            records_keep=settings.facts_keep,
            works=works,
        )


async def _works(settings: UsageWorkerSettings) -> dict[str, Work]:
    """What runs beside the ledger."""
    works: dict[str, Work] = {
        "rollups": Rollups(settings.database_url).run,
        "months": Months(settings.database_url, settings.usage_keep).run,
    }
    if settings.access_log_listen:
        ensure_tls_usable(settings)
        access_log = AccessLog(settings.database_url, batch=settings.usage_batch)
        await access_log.listen(settings.access_log_listen, settings)
        works["access log"] = access_log.run
        works["reconcile"] = Reconciler(settings.database_url, SystemClock()).run
    if settings.predictions and (policy := settings.policy):
        key = settings.predictions_key.get_secret_value().encode() if settings.predictions_key else b""
        ingest = Ingest(
            settings.database_url,
            settings.predictions,
            lambda: load_policy(policy, os.environ),
            key,
            SystemClock(),
        )
        works["predictions"] = ingest.run
    return works


def _of_budgets(settings: UsageWorkerSettings, every: float, store: QuotaStore) -> dict[str, Work]:
    if settings.policy is None:
        raise ConfigError("TOLLGATE_BUDGETS_EVERY: takes TOLLGATE_POLICY too, which names the issuers of clients")
    watch = BudgetWatch(
        settings.database_url,
        store,
        Issuers(settings.policy).by_iss,
        SystemClock(),
        every=every,
        webhook=settings.webhook is not None,
    )
    return {"budgets": watch.run, "budget alerts": BudgetAlerts(settings.database_url, Delivery(settings)).run}


class Issuers:
    """Of the policy, which may change while the worker runs."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self._path = path
        self._found: dict[str, str] = {}
        self._read()

    def by_iss(self) -> Mapping[str, str]:
        """Their names; while the policy cannot be read, as they were."""
        try:
            self._read()
        except ConfigError as wrong:
            log.warning("budgets: the policy is not read", extra={"error": str(wrong)})
        return self._found

    def _read(self) -> None:
        self._found = {issuer.issuer: issuer.name for issuer in load_policy(self._path, os.environ).issuers}


def _serve_metrics(settings: UsageWorkerSettings, port: int, worker: UsageWorker) -> None:
    host = settings.usage_metrics_host
    try:
        serve_metrics(host, port, USAGE_WORKER, worker.causes, settings.accepted_names)
    except OSError as error:
        raise ConfigError(f"TOLLGATE_USAGE_METRICS_PORT: cannot listen on {host}:{port} ({error.strerror})") from None
