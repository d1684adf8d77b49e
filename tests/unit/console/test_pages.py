"""Where the console sends people, and what it shows them of that."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ext_authz.console.pages import site_of
from ext_authz.policy.model import Resource
from tests.unit.render.policies import TOKENS, whole_demo

PEOPLE = whole_demo().issuers[0]


@pytest.mark.parametrize(
    ("resource", "models"),
    [(Resource("https://api.example"), "https://api.example"), (None, "https://models.example")],
)
def test_models_are_where_the_policy_says(resource: Resource | None, models: str) -> None:
    """The console's own address may be another one: `tokens.issuer`."""
    site = site_of(replace(whole_demo(), resource=resource), TOKENS, PEOPLE, 1)
    assert (site.origin, site.models) == ("https://models.example", models)
