"""Names, units and first values of the metrics, and which process exports which."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from ext_authz.identity.authenticator import CODES
from ext_authz.ledger.metrics import USAGE_WORKER
from ext_authz.ledger.stream import REVOKED
from ext_authz.observability.metrics import PHASES
from ext_authz.server.sources import Role
from tests.docs.codes import codes_raised_in

UNITS = ("seconds", "bytes", "ratio")
ALIVE = {"tollgate_dependency_up", "tollgate_restarts"}
"""What every process exports."""


def names(registry: CollectorRegistry) -> set[str]:
    return {family.name for family in registry.collect() if family.name.startswith("tollgate_")}


def values_of(name: str, label: str) -> set[str]:
    families = [family for family in REGISTRY.collect() if family.name == name]
    return {sample.labels[label] for family in families for sample in family.samples}


def test_names_have_base_units_at_their_end() -> None:
    for name in names(REGISTRY) | names(USAGE_WORKER):
        assert re.fullmatch(r"tollgate(_[a-z]+)+", name)
        assert not {"ms", "milliseconds", "kb", "mb", "percent", "minutes"} & set(name.split("_")), name
        assert [unit for unit in UNITS if f"_{unit}_" in name] == [], name


def test_the_usage_worker_exports_its_own() -> None:
    own = ("tollgate_ledger_", "tollgate_predictions_")
    assert {name for name in names(USAGE_WORKER) if not name.startswith(own)} == ALIVE
    assert "_created" not in generate_latest(USAGE_WORKER).decode()
    assert 'tollgate_ledger_moved_events_total{result="broken"} ' in generate_latest(USAGE_WORKER).decode()


def test_serve_does_not_export_those_of_the_usage_worker() -> None:
    loaded = (
        "import sys, ext_authz.app, ext_authz.server.supervisor as _; print('ext_authz.ledger.metrics' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True) == "False\n"


@pytest.mark.parametrize(
    ("name", "label", "known"),
    [
        ("tollgate_revoked_checks", "kind", set(REVOKED.values())),
        ("tollgate_policy_reload_failures", "role", {role.value for role in Role}),
        ("tollgate_token_cache_lookups", "result", {"hit", "miss", "bad"}),
        ("tollgate_check_phase_duration_seconds", "phase", set(PHASES)),
        ("tollgate_overloaded_checks", "where", {"queue", "late"}),
    ],
)
def test_known_series_are_there_from_the_start(name: str, label: str, known: set[str]) -> None:
    assert values_of(name, label) >= known


def test_every_code_of_a_refused_token_is_known() -> None:
    assert set(CODES) == codes_raised_in("ext_authz/identity")
