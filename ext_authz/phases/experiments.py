"""Which variant of a model a caller gets: always the same one, on every replica, without anything being stored.

A caller falls into one of 10,000 buckets by a hash of who they are, and the weights divide the buckets in the order of
the file. When weight moves between two neighbours of the file, only callers between these two change sides: who is in
a canary of 10 % is in it at 20 %. Another salt divides the callers anew. docs/adr/0012-experiments.md.
Who names a version, or a variant by a header, is not assigned: docs/adr/0052-variants-that-are-asked-for.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import sha256
from itertools import accumulate

from msgspec import Struct

from ext_authz.identity.identity import Identity
from ext_authz.phases.access import permitted
from ext_authz.phases.context import Trace
from ext_authz.policy.model import Experiment, Override

BUCKETS = 10_000
_SEPARATOR = "\x1f"


class _Division(Struct, frozen=True):
    """One experiment with its buckets divided."""

    experiment: Experiment
    variants: tuple[str, ...]
    ends: tuple[int, ...]
    """Of each variant: the first bucket that is not its own."""
    serving: Mapping[str, str]
    """The first variant that serves a version."""

    def variant(self, place: int) -> str:
        return self.variants[bisect_right(self.ends, place)]


class Experiments:
    """All experiments of a policy. Immutable."""

    def __init__(self, experiments: Mapping[str, Experiment]) -> None:
        """`experiments`: by model."""
        self._divisions = {model: _divided(experiment) for model, experiment in experiments.items()}

    def variant(
        self, model: str, identity: Identity, headers: Mapping[str, str], trace: Trace | None = None, version: str = ""
    ) -> str:
        """The variant of this model for this caller, who may have named a version; empty where there is no experiment
        with it."""
        division = self._divisions.get(model)
        if division is None:
            return ""
        experiment = division.experiment
        phase = trace and trace.add(f"experiment {experiment.name}")
        variant = _chosen(experiment.override, identity, headers, phase) if experiment.override else ""
        variant = variant or _named(division, identity, version, phase)
        if not variant or phase:
            place = bucket(experiment.salt, identity.issuer_name, identity.principal.subject)
            variant = variant or division.variant(place)
            if phase:
                shares = ", ".join(f"{name} {weight} %" for name, weight in experiment.weights.items())
                phase.note = f"{variant}: bucket {place:,} of {BUCKETS:,}; {shares}"
        return variant

    def served(self, model: str, variant: str) -> str:
        """The version of the model that this variant serves; empty: the policy does not say."""
        division = self._divisions.get(model)
        return division.experiment.versions.get(variant, "") if division else ""


def assigned(experiment: Experiment, issuer_name: str, subject: str) -> str:
    """The variant of a caller who chooses none."""
    return _divided(experiment).variant(bucket(experiment.salt, issuer_name, subject))


def bucket(salt: str, issuer_name: str, subject: str) -> int:
    """A service account is its client here: it has one subject, or its client is the subject."""
    caller = _SEPARATOR.join((salt, issuer_name, subject))
    return int.from_bytes(sha256(caller.encode()).digest()[:8]) % BUCKETS


def _divided(experiment: Experiment) -> _Division:
    shares = [weight * BUCKETS // 100 for weight in experiment.weights.values()]
    variants = tuple(experiment.weights)
    serving = {experiment.versions[name]: name for name in reversed(variants) if name in experiment.versions}
    return _Division(experiment, variants, tuple(accumulate(shares)), serving)


def _chosen(override: Override, identity: Identity, headers: Mapping[str, str], trace: Trace | None) -> str:
    """What the caller chose by the header, and may choose."""
    value = headers.get(override.header)
    variant = override.values.get(value or "", "")
    if trace:
        sent = f"the header {override.header} chooses a variant"
        trace.add(sent, value in override.values, "" if value is None else f"its value is {value}")
    return variant if variant and permitted(identity, override.permission, trace and trace.add("may choose: ")) else ""


def _named(division: _Division, identity: Identity, version: str, trace: Trace | None) -> str:
    """What serves the version that the call names: the first variant to everybody, others to who may choose.

    Elsewhere Triton does not have that version: whether a call that names one works would depend on a hash.
    """
    variant = division.serving.get(version, "") if version else ""
    if variant and trace:
        trace.add(f"the call names version {version}, which {variant} serves", holds=True)
    if not variant or variant == division.variants[0]:
        return variant
    override = division.experiment.override
    may = override and permitted(identity, override.permission, trace and trace.add("may choose: "))
    return variant if may else ""
