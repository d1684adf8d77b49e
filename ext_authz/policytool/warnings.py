"""What is legal in a policy and dangerous all the same: each with a stable code and its place."""

from __future__ import annotations

from itertools import chain

from ext_authz.policy.faults import Fault, Severity, fault_at, in_order
from ext_authz.policy.load import Loaded
from ext_authz.policytool import warnings_names, warnings_routes, warnings_trust


def warnings_of(loaded: Loaded) -> tuple[Fault, ...]:
    """Sorted by place; none for a policy that has faults: they come first."""
    source, document, policy = loaded.source, loaded.document, loaded.policy
    if source is None or document is None or policy is None:
        return ()
    found = chain(warnings_routes.of(document, policy), warnings_names.of(document), warnings_trust.of(document))
    return in_order(
        fault_at(source.position(at.path), at.path, at.code, at.what, at.hint, severity=Severity.WARNING)
        for at in found
    )
