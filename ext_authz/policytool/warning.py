"""One warning, before it has a place in a file."""

from __future__ import annotations

from typing import NamedTuple

from ext_authz.policy.faults import Step


class Warned(NamedTuple):
    """Path into the policy, stable code, what is dangerous, what would be right."""

    path: tuple[Step, ...]
    code: str
    what: str
    hint: str
