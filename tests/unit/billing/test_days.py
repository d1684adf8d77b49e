"""The billing days of clients, as the policy gets them."""

from __future__ import annotations

from pathlib import Path

from ext_authz.billing.days import differences, of_policy, written
from tests.unit.policy.writing import GOOD, loaded

DAYS = {"demo": {"shop": 15, 'a"b: c': 31}}
ANCHORED = "  month: {key: [client], rate: 5/month, algorithm: calendar, anchor: billing}\n"


def test_what_is_written_is_read_by_a_policy(tmp_path: Path) -> None:
    text = GOOD.replace("models:", f"{ANCHORED}{written(DAYS)}\nmodels:", 1)
    assert of_policy(loaded(tmp_path, text)) == DAYS
    assert of_policy(loaded(tmp_path, GOOD.replace("models:", f"{ANCHORED}{written({})}\nmodels:", 1))) == {}
    assert of_policy(loaded(tmp_path, GOOD)) is None


def test_every_difference_is_said() -> None:
    assert differences(DAYS, DAYS) == []
    assert differences({"demo": {"shop": 15, "web": 3}}, {"demo": {"web": 4, "gone": 9}, "other": {"x": 1}}) == [
        "demo:gone: its periods begin on day 1, its quotas on day 9",
        "demo:shop: its periods begin on day 15, its quotas on day 1",
        "demo:web: its periods begin on day 3, its quotas on day 4",
    ]
