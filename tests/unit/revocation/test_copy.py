from __future__ import annotations

import pytest

from ext_authz.revocation.copy import Status


@pytest.mark.parametrize(("marker", "complete"), [("run", True), ("other", False), ("", False)])
def test_only_a_marker_of_the_same_process_makes_it_complete(marker: str, complete: bool) -> None:  # noqa: FBT001 - a table
    assert Status("run", "lineage", "noeviction", marker, "").complete is complete


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl", ""])
def test_every_policy_but_noeviction_may_drop_a_revocation(policy: str) -> None:
    assert not Status("run", "lineage", policy, "run", "").keeps_keys
    assert Status("run", "lineage", "noeviction", "run", "").keeps_keys
