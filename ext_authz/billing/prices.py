"""Price lists from YAML, with the place of every fault, as policies have them; and their JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ext_authz.billing.documents import PriceListDocument
from ext_authz.policy.faults import PolicyFaults, did_you_mean, fault_at, shown
from ext_authz.policy.source import Source, read_source
from ext_authz.policy.validation import faults_of

DEFAULT_PLAN = "default"
"""Of subscribers without a plan of the policy."""


def read_prices(path: Path, plans: Collection[str] | None = None) -> PriceListDocument:
    """`plans`: those of the policy, which a list may name besides `default`; None: whatever it names.

    Raises:
        PolicyFaults: a ConfigError with every fault and its position.
    """
    source, faults = read_source(path, {})
    if source is None or faults:
        raise PolicyFaults(faults)
    try:
        document = PriceListDocument.model_validate(source.data)
    except ValidationError as wrong:
        raise PolicyFaults(source.quoted(faults_of(wrong, source, PriceListDocument))) from None
    if plans is not None:
        _ensure_plans(document, source, plans)
    return document


def _ensure_plans(document: PriceListDocument, source: Source, plans: Collection[str]) -> None:
    known = {*plans, DEFAULT_PLAN}
    unknown = [name for name in document.plans if name not in known]
    if unknown:
        faults = []
        for name in unknown:
            path = ("plans", name)
            hint = did_you_mean(name, known) or f"write one of {', '.join(sorted(known))}"
            what = f"the policy has no plan {shown(name)}"
            faults.append(fault_at(source.key_position(path), path, "unknown_plan", what, hint))
        raise PolicyFaults(source.quoted(faults))


def canonical(value: object) -> str:
    """JSON with sorted keys and no blanks: the same value is always the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def prices_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, for editors."""
    schema = PriceListDocument.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Tollgate price list"}
