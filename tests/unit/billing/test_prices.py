"""A price list says what is wrong with it, and where."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from ext_authz.billing.commands import bill
from ext_authz.billing.prices import canonical, prices_schema, read_prices
from ext_authz.policy.faults import PolicyFaults
from tests.unit.billing.bills import PRICES, written


def test_amounts_are_as_written_and_defaults_are_filled_in(tmp_path: Path) -> None:
    plans = read_prices(written(tmp_path), ["gold"]).plans
    assert [item.price for item in plans["default"].items] == ["0.015", None, "0.2"]
    assert [tier.price for tier in plans["default"].items[1].tiers] == ["0.10", "0.05"]
    assert (plans["default"].fee, plans["gold"].fee, plans["gold"].items) == ("10", "99", ())


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("currency: EUR", "currency: EURO", "4:11: error: 'EURO' does not have the right form"),
        ("currency: EUR", "currency: XAU", "4:11: error: 'XAU' is not a currency with a minor unit in ISO 4217"),
        ("currency: EUR", "currency: ZZZ", "4:11: error: 'ZZZ' is not a currency"),
        ("2026-01-01", "2026-02-30", "'2026-02-30' is no day of the calendar"),
        ("fee: 10", "fee: -1", "8:10: error: -1 does not have the right form (plans.default.fee)"),
        ("fee: 10", "fee: 0.1234567890123456", "may not be the amount as it was written (plans.default.fee); write it"),
        ("fee: 10", "fee: 1e-7", ""),
        ("fee: 10", "fee: yes", "does not have the right form"),
        ("price: 0.015", "prise: 0.015", "unknown key 'prise'"),
        ("included: 3, price: 0.015", "included: 3", "10:9: error: an item has either a price or tiers"),
        ("per: megabyte", "per: gigabyte", "'gigabyte' is not one of request, unit, megabyte, second"),
        ("up_to: 10", "up_to: 0", "must be at least 1, not 0"),
        ('{price: "0.05"}', '{up_to: 5, price: "0.05"}', "every tier but the last ends somewhere"),
        ('{price: "0.05"}', '{up_to: 10, price: 1}, {price: "0.05"}', "tiers follow each other"),
        ("name: Traffic", "name: Sentiment", "two items are called 'Sentiment'"),
        ("models: [sentiment], ", "", "nothing is left for 'Other calls'"),
        ("  gold:", "  god:", "13:3: error: the policy has no plan 'god' (plans.god); did you mean 'gold'?"),
        ("version: 1\n", "", "'version' is missing (version); for example version: 1"),
        ("name: standard\n", "", "'name' is missing (name); write lower-case letters"),
        (PRICES, "", "the file is empty"),
        (PRICES, "- 1", "the file holds a list, not a mapping"),
        ("10", "${HOME}", "HOME"),
    ],
)
def test_a_wrong_list(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = written(tmp_path, PRICES.replace(before, after, 1))
    if not said:
        assert read_prices(path).plans["default"].fee == "0.0000001"
        return
    with pytest.raises(PolicyFaults) as wrong:
        read_prices(path, ["gold"])
    assert said in str(wrong.value)


def test_the_same_list_is_the_same_text(tmp_path: Path) -> None:
    """Whatever the order of its keys, and whether its amounts are numbers or text."""
    other = yaml.safe_load(PRICES)
    path = written(tmp_path, json.dumps(dict(reversed(other.items())), default=str).replace("0.015", '"0.015"'))
    assert read_prices(path).model_dump() == read_prices(written(tmp_path)).model_dump()
    assert canonical({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'


def test_the_schema_takes_the_list_and_no_other() -> None:
    schema = prices_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = json.loads(json.dumps(yaml.safe_load(PRICES.replace("fee: 10", 'fee: "10"')), default=str))
    good["plans"] = {"gold": {"fee": "99"}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "curency": "EUR"}, schema)


def test_the_command_prints_every_fault_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_POLICY", raising=False)
    good = CliRunner().invoke(bill, ["prices", "check", str(written(tmp_path))])
    assert (good.exit_code, good.stdout.split(": ", 1)[1]) == (
        0, "good: standard, from 2026-01-01, EUR, plans default, gold\n"
    )  # fmt: skip
    text = PRICES.replace("EUR", "ZZZ").replace("fee: 99", "fee: x")
    wrong = CliRunner().invoke(bill, ["prices", "check", str(written(tmp_path, text))])
    assert wrong.exit_code == 2
    assert "    4 | currency: ZZZ" in wrong.stderr
    assert wrong.stderr.endswith("2 errors\n")


def test_the_list_of_the_documentation_is_good(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "billing.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    assert list(read_prices(written(tmp_path, text), []).plans) == ["default"]
