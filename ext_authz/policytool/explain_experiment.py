"""The variant explained: what the weights gave the caller, and what a header could have chosen."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.decision import Allow
from ext_authz.identity.identity import Identity
from ext_authz.phases.experiments import BUCKETS, bucket
from ext_authz.policy.model import Override
from ext_authz.policytool.account import Statement
from ext_authz.policytool.door import Asked
from ext_authz.policytool.explain_permission import tree


def experiment(asked: Asked) -> Iterator[Statement]:
    """Of a call that is let through to a model with an experiment."""
    decision, identity = asked.decision, asked.found.identity
    found = asked.policy.experiments.get(asked.found.model)
    if found is None or identity is None or not isinstance(decision, Allow):
        return
    shares = ", ".join(f"{variant} {weight} %" for variant, weight in found.weights.items())
    place = f"bucket {bucket(found.salt, identity):,} of {BUCKETS:,}"
    parts = tuple(_override(found.override, identity, asked)) if found.override else ()
    yield Statement(f"experiment {found.name}", note=f"{decision.variant}: {place}; {shares}", parts=parts)


def _override(override: Override, identity: Identity, asked: Asked) -> Iterator[Statement]:
    value = asked.request.headers.get(override.header)
    sent = f"the header {override.header} chooses a variant"
    yield Statement(sent, value in override.values, "" if value is None else f"it says {value}")
    yield tree(identity, override.permission, "may choose")
